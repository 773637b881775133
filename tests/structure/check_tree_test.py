#!/usr/bin/env python3
"""The checker must fail: each fault is planted alone into a clean tree and must be found, and only it."""

import tempfile
import unittest
from pathlib import Path

import check_tree

CLEAN = {
    "CMakeLists.txt": "project(x)\n",
    "README.md": "# x\n```c\nint main(void) { return 0; }\n```\n",
    "quant/page.h": "#pragma once\n#include <cstdint>\n",
    "quant/page.cc": '#include "quant/page.h"\n#include <xxhash.h>\n',
    "kvcache/pool.cc": '#include "quant/page.h"\n',
    "offload/tier.cc": '#include "kvcache/pool.h"\n#include "quant/page.h"\n',
    "bindings/c/quire.h": "#include <stdint.h>\n",
    "bindings/c/example.c": "int main(void) { return 0; }\n",
    "bindings/c/quire.cc": '#include "bindings/c/quire.h"\n#include "offload/tier.h"\n',
    "bindings/cpp/quire.hpp": "#include <quire.h>\n",
    "bench/scale.cc": '#include "bench/qwen3/model.h"\n#include "bindings/c/quire.h"\n#include <quire.hpp>\n',
    "bench/micro/attend.cc": '#include "quant/page.h"\n',
    "bench/peers/main.cc": '#include "quant/page.h"\n',
    "tests/quant/page_test.cc": '#include "quant/page.h"\n#include "tests/quant/shapes.h"\n',
    "tests/bench/model_test.cc": '#include "bench/qwen3/model.h"\n',
    "build/anything.cc": '#include "bench/leak.h"\n',
}

# what: (file, content, words of the one sentence expected)
PLANTED = {
    "quant includes kvcache": ("quant/bad.cc", '#include "kvcache/pool.h"\n', "quant may include quant"),
    "in angle brackets": ("quant/bad.cc", "#include <kvcache/pool.h>\n", "quant may include quant"),
    "kvcache includes offload": ("kvcache/bad.h", '#  include "offload/tier.h"\n', "kvcache may include"),
    "offload includes bindings": ("offload/bad.h", '#include "bindings/c/quire.h"\n', "offload may include"),
    "bindings include bench": ("bindings/c/bad.cc", '#include "bench/a.h"\n', "bench is included by"),
    "library includes tests": ("quant/bad.cc", '#include "tests/a.h"\n', "included by tests alone"),
    "bench includes the library": ("bench/bad.cc", '#include "kvcache/status.h"\n', "only public headers"),
    "decoder includes the library": ("bench/qwen3/bad.h", '#include "quant/page.h"\n', "only public headers"),
    "bench includes tests": ("bench/bad.cc", '#include "tests/a.h"\n', "included by tests alone"),
    "public header includes internals": ("bindings/cpp/quire.hpp", '#include "quant/page.h"\n', "stands on public"),
    "relative include": ("quant/bad.cc", '#include "../kvcache/pool.h"\n', "not written from"),
    "bare include": ("quant/bad.cc", '#include "page.h"\n', "not written from"),
    "stray file": ("notes.txt", "x\n", "top level"),
    "stray folder": ("prototypes/a.cc", "\n", "top level"),
    "machine path in source": ("quant/bad.h", "// see /" + "work/shared\n", "path of one machine"),
    "machine path in a script": (".ci/run", "cd /" + "home/me\n", "path of one machine"),
    "unfinished work": ("bench/run.sh", "# TO" + "DO: later\n", "unfinished work"),
    "a long file": ("quant/bad.h", "\n" * 601, "601 lines"),
    "a script that cannot be run": ("bench/bad.sh", "#!/usr/bin/env bash\n", "not executable"),
    "another example": ("README.md", "# x\n```c\nint main(void) { return 1; }\n```\n", "README.md"),
}


def plant(root, tree):
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


class CheckTree(unittest.TestCase):
    def faults(self, *trees):
        with tempfile.TemporaryDirectory() as folder:
            for tree in trees:
                plant(Path(folder), tree)
            return list(check_tree.check(Path(folder)))

    def test_clean_tree_passes(self):
        self.assertEqual(self.faults(CLEAN), [])

    def test_every_planted_fault_is_found(self):
        for what, (name, content, words) in PLANTED.items():
            with self.subTest(what):
                faults = self.faults(CLEAN, {name: content})
                self.assertEqual(len(faults), 1, faults)
                self.assertIn(words, faults[0])
                self.assertIn(name.split("/")[0], faults[0])
        print(f"[counts] cases={len(PLANTED)} faults={len(PLANTED)}")


if __name__ == "__main__":
    unittest.main()
