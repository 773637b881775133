// The options that the programs share, and how a program ends.
// Thread safety: main's thread.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/qwen3/cache.h"

namespace quire::bench {

struct CodecPair {
  quire_codec key;
  quire_codec value;
  std::string name() const;  // "rot4/rot3"
};
// "rot4/rot3", or "rot4" for both sides; throws qwen3::Error.
CodecPair parse_codec_pair(const std::string& text);

struct CommonOptions {
  std::filesystem::path model;
  std::filesystem::path json;  // empty: none is written
  qwen3::CacheOptions cache;   // its codecs are the program's to choose
  uint32_t threads;
  uint64_t seed = 0;
};

// Adds the options to `app`; they are stored in *options, which also holds the defaults.
void add_common_options(CLI::App& app, CommonOptions* options);

// The options as they stand in a JSON file.
nlohmann::json to_json(const CommonOptions& options);

// Parses the command line and runs `body`. Returns the exit code: 0, or 2 after one sentence on stderr.
int run_program(CLI::App& app, int argc, char** argv, const std::function<void()>& body);

}  // namespace quire::bench
