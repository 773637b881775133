// What quire-gpu is asked for. Thread safety: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/page.h"

namespace quire::gpu {

struct CodecPair {
  CodecId key;
  CodecId value;
  std::string name() const;
};

struct Options {
  std::vector<std::string> cases{"attend", "encode",  "decode", "merge",
                                 "rotate", "prefill", "stream", "carry"};
  std::vector<CodecPair> codecs;
  std::vector<uint32_t> groups{1, 2, 4, 8, 16};
  SectionShape shape{64, 128};
  uint32_t kv_heads = 8;
  uint32_t tokens = 131072;
  uint32_t batches = 15;
  bool once = false;  // each attend case once and nothing else: for a profiler
  int device = 0;
  std::string json;

  bool wants(const std::string& name) const;
};

// Prints and exits, with 2 for bad input, where there is nothing to run.
Options parse_options(int argc, char** argv);

}  // namespace quire::gpu
