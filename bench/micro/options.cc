#include "bench/micro/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>

namespace quire::micro {
namespace {

constexpr std::array kDefaultCodecs{"bf16", "int8", "int4", "int3", "int2", "rot4", "rot3", "rot2"};

CodecId codec_named(const std::string& name) {
  if (const CodecInfo* codec = find_codec(name)) return codec->id;
  std::string known;
  for (const CodecInfo& codec : kCodecs) known.append(" ").append(codec.name);
  throw CLI::ValidationError("--codecs", "no codec is called '" + name + "'; there are:" + known);
}

CodecPair pair_named(const std::string& name) {
  const size_t slash = name.find('/');
  const CodecId key = codec_named(name.substr(0, slash));
  return {key, slash == std::string::npos ? key : codec_named(name.substr(slash + 1))};
}

const Kernels* table_named(const std::string& name) {
  if (name == "best") return &best_kernels();
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx}) {
    if (name != isa_name(isa)) continue;
    if (const Kernels* kernels = find_kernels(isa)) return kernels;
    throw CLI::ValidationError("--isa", "this machine has no " + name + "; use best");
  }
  throw CLI::ValidationError("--isa",
                             "'" + name + "' is none of all, best, scalar, avx2, avxvnni, avx512, amx");
}

std::vector<const Kernels*> tables_named(const std::vector<std::string>& names) {
  std::vector<const Kernels*> tables;
  for (const std::string& name : names) {
    if (name != "all") {
      tables.push_back(table_named(name));
      continue;
    }
    for (const Isa isa : {Isa::kAmx, Isa::kAvx512, Isa::kAvxVnni, Isa::kAvx2, Isa::kScalar}) {
      if (const Kernels* kernels = find_kernels(isa)) tables.push_back(kernels);
    }
  }
  return tables;
}

void check(const Options& options) {
  if (!valid_shape(options.shape)) {
    throw CLI::ValidationError("--head-dim",
                               "is to be a multiple of 32 from 32 to 256, and --page-tokens 32, 64 or 128");
  }
  std::vector<size_t> lengths = options.tokens;
  lengths.push_back(options.prefill_tokens);
  for (const size_t tokens : lengths) {
    if (tokens < options.shape.tokens || tokens % options.shape.tokens != 0) {
      throw CLI::ValidationError("--tokens, --prefill-tokens", "are to be multiples of --page-tokens");
    }
  }
}

// A run of seconds that shows every case once; its figures are rough.
void make_quick(Options* options) {
  options->groups = {4};
  options->queries = {256};
  options->tokens = {32768};
  options->prefill_tokens = 4096;
  options->page_tokens_in_memory = 2048;
  options->rounds = 3;
}

}  // namespace

bool Options::wants(const std::string& name) const { return std::ranges::find(cases, name) != cases.end(); }

Options parse_options(int argc, char** argv) {
  Options options;
  Options given;
  std::vector<std::string> codecs(kDefaultCodecs.begin(), kDefaultCodecs.end());
  std::vector<std::string> isas{"all"};
  bool quick = false;
  CLI::App app(
      "Times the kernels against what the machine could do at best. --benchmark_filter=REGEX takes some "
      "cases, --benchmark_list_tests names them.\n"
      "Example: quire-micro --cases attend --codecs rot4,int4 --isa best --groups 4 --json rows.json");
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return "quire-micro: " + std::string(error.what()) + "; see --help\n";
  });
  const std::vector<std::string> cases = options.cases;
  app.add_flag("--quick", quick, "less of everything, as defaults of the options below");
  app.add_option("--cases", given.cases)->delimiter(',')->check(CLI::IsMember(cases))->expected(1, -1);
  app.add_option("--codecs", codecs, "of keys and values: rot4, or rot3/rot2")->delimiter(',');
  app.add_option("--isa", isas, "all, best, amx, avx512, avxvnni, avx2, scalar")->delimiter(',');
  CLI::Option* groups = app.add_option("--groups", given.groups, "query heads of one kv head")
                            ->delimiter(',')
                            ->check(CLI::Range(1, 16));
  app.add_option("--threads", given.threads)->delimiter(',')->check(CLI::Range(1, 256));
  CLI::Option* tokens =
      app.add_option("--tokens", given.tokens, "n_kv of attend; the last of digest, checksum and neighbour")
          ->delimiter(',');
  CLI::Option* prefill = app.add_option("--prefill-tokens", given.prefill_tokens, "n_kv of prefill");
  CLI::Option* queries = app.add_option("--n-q", given.queries, "query tokens of prefill")
                             ->delimiter(',')
                             ->check(CLI::Range(1, 65536));
  CLI::Option* rounds = app.add_option("--rounds", given.rounds)->check(CLI::Range(1, 100000));
  app.add_option("--page-tokens", given.shape.tokens);
  app.add_option("--head-dim", given.shape.dim);
  app.add_option("--kv-heads", given.kv_heads)->check(CLI::Range(1, 64));
  app.add_option("--json", given.json, "write the rows to this file");
  try {
    app.parse(argc, argv);
    if (quick) make_quick(&options);
    const auto take = [](const CLI::Option* option, const auto& from, auto* to) {
      if (option->count() > 0) *to = from;
    };
    take(groups, given.groups, &options.groups);
    take(tokens, given.tokens, &options.tokens);
    take(prefill, given.prefill_tokens, &options.prefill_tokens);
    take(queries, given.queries, &options.queries);
    take(rounds, given.rounds, &options.rounds);
    options.cases = given.cases;
    options.threads = given.threads;
    options.shape = given.shape;
    options.kv_heads = given.kv_heads;
    options.json = given.json;
    for (const std::string& name : codecs) options.codecs.push_back(pair_named(name));
    options.tables = tables_named(isas);
    check(options);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error) == 0 ? 0 : 2);
  }
  return options;
}

}  // namespace quire::micro
