#include "bench/gpu/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "quant/cuda/launch.h"

namespace quire::gpu {
namespace {

// Those that have kernels of their own.
constexpr std::array kDefaultCodecs{"rot4", "rot3/rot2", "rot3", "rot2", "tcq4",  "tcq3/tcq2", "tcq3",
                                    "tcq2", "nuq4",      "nuq3", "nuq2", "nuq4s", "nuq3s",     "nuq2s",
                                    "int8", "int4",      "int3", "int2", "bf16",  "f32"};
constexpr uint32_t kMostTokens = 1U << 22;

CodecId codec_named(const std::string& name) {
  const CodecInfo* codec = find_codec(name);
  if (codec != nullptr && cuda::has_kernels(codec->id)) return codec->id;
  std::string known;
  for (const CodecInfo& info : kCodecs) {
    if (cuda::has_kernels(info.id)) known.append(" ").append(info.name);
  }
  throw CLI::ValidationError("--codecs",
                             "no codec with CUDA kernels is called '" + name + "'; there are:" + known);
}

CodecPair pair_named(const std::string& name) {
  const size_t slash = name.find('/');
  const CodecId key = codec_named(name.substr(0, slash));
  return {key, slash == std::string::npos ? key : codec_named(name.substr(slash + 1))};
}

void check(const Options& options) {
  if (!valid_shape(options.shape)) {
    throw CLI::ValidationError("--head-dim",
                               "is to be a multiple of 32 from 32 to 256, and --page-tokens 32, 64 or 128");
  }
  if (options.tokens % options.shape.tokens != 0) {
    throw CLI::ValidationError("--tokens", "is to be a multiple of --page-tokens");
  }
}

}  // namespace

std::string CodecPair::name() const {
  const std::string first(find_codec(key)->name);
  return key == value ? first : first + "/" + std::string(find_codec(value)->name);
}

bool Options::wants(const std::string& name) const { return std::ranges::find(cases, name) != cases.end(); }

Options parse_options(int argc, char** argv) {
  Options options;
  std::vector<std::string> codecs(kDefaultCodecs.begin(), kDefaultCodecs.end());
  const std::vector<std::string> cases = options.cases;
  CLI::App app(
      "Times every CUDA kernel against a device-to-device copy, page streaming against the link's own copy, "
      "all "
      "measured in the same run.\nExample: quire-gpu --cases attend,encode --codecs rot4,rot3/rot2 --json "
      "gpu.json");
  app.add_option("--cases", options.cases, "what to time")->delimiter(',')->check(CLI::IsMember(cases));
  app.add_option("--codecs", codecs, "of keys and values: rot4, or rot3/rot2")->delimiter(',');
  app.add_option("--groups", options.groups, "query heads of one kv head")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  app.add_option("--tokens", options.tokens, "context of attend")->check(CLI::Range(1U, kMostTokens));
  app.add_option("--page-tokens", options.shape.tokens);
  app.add_option("--head-dim", options.shape.dim);
  app.add_option("--kv-heads", options.kv_heads)->check(CLI::Range(1, 64));
  app.add_option("--batches", options.batches, "timed batches of a case; their median counts")
      ->check(CLI::Range(3, 1000));
  app.add_option("--device", options.device, "index of the GPU")->check(CLI::Range(0, 1023));
  app.add_flag("--once", options.once, "launch each attend case once and time nothing, for a profiler");
  app.add_option("--json", options.json, "write the report to this file");
  try {
    app.parse(argc, argv);
    std::ranges::transform(codecs, std::back_inserter(options.codecs), pair_named);
    check(options);
  } catch (const CLI::Success& asked) {
    std::exit(app.exit(asked));
  } catch (const CLI::ParseError& error) {
    (void)app.exit(error);
    std::exit(2);
  }
  return options;
}

}  // namespace quire::gpu
