#!/usr/bin/env python3
"""The gate on pinned figures must close: planted disassembly is counted right, and every kind of change is found.

usage: pins_test.py FOLDER_OF_BENCH_MICRO
"""

import copy
import sys
import unittest

sys.path.insert(0, sys.argv.pop(1))
import hot_loops
import pins

# As objdump prints it. Counted by hand: two loops, one around the other; the inner one has three dots, three
# loads (one by a dot, one broadcast, one plain), one copy and one spill in ten instructions.
DISASSEMBLY = """
0000000000000000 <void quire::N_AVX3::score_quads<4u, 2, quire::N_AVX3::CommonShape>(quire::N_AVX3::Tile&)>:
   0:\tpush   %rbp
   1:\tvpdpbusd %zmm1,%zmm2,%zmm3
   7:\tvmovdqa64 (%rcx),%zmm0
   d:\tprefetcht1 (%rdx)
  10:\tvpbroadcastd 0x4(%rax),%zmm2
  17:\tvpdpbusd %zmm1,%zmm2,%zmm3
  1d:\tvpdpbusd 0x40(%rcx),%zmm2,%zmm4
  24:\tvpdpwssd %zmm1,%zmm2,%zmm5
  2a:\tvmovdqa64 %zmm5,%zmm6
  30:\tvmovdqa32 %zmm6,-0x38(%rsp)
  38:\tvmovups %zmm6,(%rdi)
  3e:\tjne    7 <void quire::N_AVX3::score_quads<4u, 2, quire::N_AVX3::CommonShape>(quire::N_AVX3::Tile&)+0x7>
  44:\tvpdpbusd %zmm1,%zmm2,%zmm3
  4a:\tjne    1 <void quire::N_AVX3::score_quads<4u, 2, quire::N_AVX3::CommonShape>(quire::N_AVX3::Tile&)+0x1>
  50:\tret

0000000000000000 <void quire::N_AVX2::score_floats<true, 1>(quire::N_AVX2::Tile&)>:
   0:\tvfmadd231ps 0x20(%rax),%ymm1,%ymm2
   6:\tjne    0 <void quire::N_AVX2::score_floats<true, 1>(quire::N_AVX2::Tile&)>

0000000000000000 <void quire::N_AVX3::score_quads<4u, 2, quire::N_AVX3::AnyShape>(quire::N_AVX3::Tile&)>:
   0:\tvpdpbusd %zmm1,%zmm2,%zmm3
   6:\tjne    0 <void quire::N_AVX3::score_quads<4u, 2, quire::N_AVX3::AnyShape>(quire::N_AVX3::Tile&)>

0000000000000000 <quire::encode_key(float const*)>:
   0:\tvfmadd231ps %ymm0,%ymm1,%ymm2
   6:\tjne    0 <quire::encode_key(float const*)>
"""

PINNED = {
    "margins": pins.MARGINS,
    "page_bytes": {"rot4/rot4": 68096},
    "error": {"avx512 attend rot4/rot4": 1e-3, "avx2 attend rot4/rot4": 1e-5, "encode rot4/rot4": 0.09},
    "hot_loops": {"avx512 score_quads<4, 2>": [{"dots": 32, "loads": 20, "moves": 0, "total": 100}]},
}


class Counting(unittest.TestCase):
    def test_planted_loops(self):
        found = hot_loops.hot_loops_of(DISASSEMBLY)
        self.assertEqual(found, {
            "avx512 score_quads<4, 2>": [{"dots": 3, "loads": 3, "moves": 2, "total": 10}],
            "avx2 score_floats<true, 1>": [{"dots": 1, "loads": 1, "moves": 0, "total": 2}],
        })


class Gate(unittest.TestCase):
    def faults(self, section, change):
        now = copy.deepcopy(PINNED)
        change(now[section])
        return pins.compare(PINNED, now, section)

    def assert_fault(self, section, change, words):
        faults, _ = self.faults(section, change)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(words, faults[0])
        self.assertIn("update.sh", faults[0])

    def test_the_same_figures_pass(self):
        for section in pins.MARGINS:
            self.assertEqual(pins.compare(PINNED, PINNED, section), ([], []))

    def test_bytes_are_exact(self):
        for bytes_now in (68095, 68097):
            self.assert_fault("page_bytes", lambda now, value=bytes_now: now.update({"rot4/rot4": value}), "68")

    def test_errors_may_grow_by_a_tenth(self):
        self.assertEqual(self.faults("error", lambda now: now.update({"encode rot4/rot4": 0.0989})), ([], []))
        self.assert_fault("error", lambda now: now.update({"encode rot4/rot4": 0.0991}), "encode rot4/rot4")

    def test_better_is_a_note(self):
        faults, notes = self.faults("error", lambda now: now.update({"encode rot4/rot4": 0.05}))
        self.assertEqual((faults, len(notes)), ([], 1))

    def test_loops_may_grow_a_little(self):
        def set_count(what, count):
            return lambda now: now["avx512 score_quads<4, 2>"][0].update({what: count})
        for what, allowed in (("total", 105), ("loads", 22), ("moves", 2)):
            self.assertEqual(self.faults("hot_loops", set_count(what, allowed)), ([], []))
            self.assert_fault("hot_loops", set_count(what, allowed + 1), what)
        for dots in (31, 33):
            self.assert_fault("hot_loops", set_count("dots", dots), "dots")

    def test_what_comes_and_goes_is_a_fault(self):
        self.assert_fault("page_bytes", lambda now: now.update({"rot5/rot5": 1}), "not pinned")
        self.assert_fault("page_bytes", lambda now: now.clear(), "no more")

    def test_a_machine_without_an_instruction_set_is_told_apart(self):
        now = copy.deepcopy(PINNED)
        del now["error"]["avx512 attend rot4/rot4"]
        self.assertEqual(pins.missing_isas(PINNED, now), ["avx512"])

    def test_its_errors_outlive_an_update(self):
        now = copy.deepcopy(PINNED)
        del now["error"]["avx512 attend rot4/rot4"]
        now["error"]["encode rot4/rot4"] = 0.05
        kept = pins.with_missing(PINNED, now)["error"]
        self.assertEqual(kept, PINNED["error"] | {"encode rot4/rot4": 0.05})


if __name__ == "__main__":
    unittest.main()
