// What quire-micro is asked to measure. Thread safety: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/kernels.h"

namespace quire::micro {

struct CodecPair {
  CodecId key;
  CodecId value;
};

struct Options {
  std::vector<std::string> cases{"attend", "prefill",  "encode",   "decode-page",
                                 "digest", "checksum", "neighbour"};
  std::vector<CodecPair> codecs;
  std::vector<const Kernels*> tables;
  std::vector<uint32_t> groups{2, 4, 8};
  std::vector<uint32_t> threads{1, 2};
  std::vector<uint32_t> queries{256, 1024};
  std::vector<size_t> tokens{16384, 131072};  // attend has each; what has one length has the last
  size_t prefill_tokens = 16384;
  size_t page_tokens_in_memory = 8192;  // of the cases that make and read whole pages
  SectionShape shape{64, 128};
  uint16_t kv_heads = 8;
  uint32_t rounds = 7;
  std::string json;

  bool wants(const std::string& name) const;
};

// Reads the command line; Google Benchmark has taken its own options from it. On --help or bad input prints
// what is to be said and exits with 0 or 2.
Options parse_options(int argc, char** argv);

}  // namespace quire::micro
