// The bytes of a calibration: FORMAT.md.
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>

#include "bench/calibration/calibration.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/mapped_file.h"

namespace quire::bench {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie in memory");

constexpr std::array<char, 8> kMagic{'q', 'u', 'i', 'r', 'e', 'c', 'a', 'l'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kWholeModel = 0xffffffff;

struct Header {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t sections;
  uint64_t model;
  uint64_t bytes;
  uint32_t layers;
  uint32_t query_heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint64_t tokens;
  uint64_t checksum;
};
static_assert(sizeof(Header) == 64);

struct SectionHeader {
  uint32_t kind;
  uint32_t layer;
  uint64_t bytes;
};
static_assert(sizeof(SectionHeader) == 16);

enum Kind : uint32_t {
  kKeyBalance = 1,
  kKeyLevels = 2,
  kValueLevels = 3,
  kFirstStatistic = 16,
  kText = 32,
  kMix = 33,
};

// In the order of their kinds.
constexpr std::array<std::vector<float> ChannelStatistics::*, 6> kStatistics{
    &ChannelStatistics::query_rms, &ChannelStatistics::key_rms,   &ChannelStatistics::key_mean,
    &ChannelStatistics::key_peak,  &ChannelStatistics::value_rms, &ChannelStatistics::value_peak};

// Of the whole file as if the header's field were zero.
uint64_t checksum_of(std::span<const uint8_t> bytes, Header header) {
  header.checksum = 0;
  std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  std::memcpy(copy.data(), &header, sizeof header);
  return XXH3_64bits(copy.data(), copy.size());
}

class Writer {
 public:
  void section(uint32_t kind, uint32_t layer, std::span<const std::span<const uint8_t>> parts) {
    SectionHeader header{kind, layer, 0};
    for (const auto part : parts) header.bytes += part.size();
    add(bytes_of(header));
    for (const auto part : parts) add(part);
    bytes_.resize((bytes_.size() + 7) / 8 * 8);
    ++sections_;
  }
  void floats(uint32_t kind, uint32_t layer, const std::vector<float>& values) {
    if (values.empty()) return;
    const std::array parts{bytes_of(std::span(values))};
    section(kind, layer, parts);
  }
  void levels(uint32_t kind, uint32_t layer, const std::vector<qwen3::CodecLevels>& books) {
    for (const qwen3::CodecLevels& book : books) {
      const auto codec = static_cast<uint32_t>(book.codec);
      const std::array parts{bytes_of(codec), bytes_of(std::span(book.levels))};
      section(kind, layer, parts);
    }
  }
  void mix(const Mix& mix) {
    std::vector<uint8_t> codecs;
    for (const CodecChoice& choice : mix.layers) {
      codecs.push_back(static_cast<uint8_t>(choice.key));
      codecs.push_back(static_cast<uint8_t>(choice.value));
    }
    const std::array<std::span<const uint8_t>, 2> parts{bytes_of(mix.budget), codecs};
    section(kMix, kWholeModel, parts);
  }
  void text(const std::string& text) {
    const std::array parts{bytes_of(std::span(text))};
    if (!text.empty()) section(kText, kWholeModel, parts);
  }

  std::vector<uint8_t> finish(Header header) {
    header.sections = sections_;
    header.bytes = bytes_.size();
    header.checksum = checksum_of(bytes_, header);
    std::memcpy(bytes_.data(), &header, sizeof header);
    return std::move(bytes_);
  }

 private:
  template <typename T>
  static std::span<const uint8_t> bytes_of(const T& value) {
    return {reinterpret_cast<const uint8_t*>(&value), sizeof value};
  }
  template <typename T>
  static std::span<const uint8_t> bytes_of(std::span<const T> values) {
    return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
  }
  void add(std::span<const uint8_t> part) { bytes_.insert(bytes_.end(), part.begin(), part.end()); }

  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(sizeof(Header));
  uint32_t sections_ = 0;
};

class Reader {
 public:
  Reader(std::span<const uint8_t> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

  Calibration read() {
    const Header header = check_header();
    out_.model = header.model;
    out_.query_heads = header.query_heads;
    out_.kv_heads = header.kv_heads;
    out_.head_dim = header.head_dim;
    out_.tokens = header.tokens;
    out_.layers.resize(header.layers);
    size_t at = sizeof header;
    for (uint32_t i = 0; i < header.sections; ++i) at = read_section(at);
    if (at != bytes_.size()) fail("has bytes behind its last section");
    std::sort(out_.mixes.begin(), out_.mixes.end(),
              [](const Mix& a, const Mix& b) { return a.budget < b.budget; });
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw qwen3::Error(name_ + " " + what + "; write it again with quire-calibrate");
  }

  template <typename T>
  T load(size_t at) const {
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }

  Header check_header() const {
    if (bytes_.size() < sizeof(Header) || load<Header>(0).magic != kMagic) fail("is no calibration file");
    const auto header = load<Header>(0);
    if (header.version != kVersion) {
      fail("has version " + std::to_string(header.version) + " of the format, this program reads 1");
    }
    if (header.bytes != bytes_.size()) fail("is truncated");
    if (header.checksum != checksum_of(bytes_, header)) fail("is damaged: its checksum does not match");
    if (header.layers > 1024 || header.kv_heads > 1024 || header.head_dim > 256) {
      fail("names a geometry that no cache has");
    }
    return header;
  }

  size_t read_section(size_t at) {
    if (bytes_.size() - at < sizeof(SectionHeader)) fail("ends inside a section");
    const auto header = load<SectionHeader>(at);
    at += sizeof header;
    if (header.bytes > bytes_.size() - at) fail("ends inside a section");
    const auto payload = bytes_.subspan(at, header.bytes);
    if (header.layer == kWholeModel) {
      read_model_section(header.kind, payload);
    } else if (header.layer < out_.layers.size()) {
      read_layer_section(header.kind, payload, &out_.layers[header.layer]);
    } else {
      fail("has a section for layer " + std::to_string(header.layer) + " of " +
           std::to_string(out_.layers.size()));
    }
    return std::min<size_t>(bytes_.size(), (at + header.bytes + 7) / 8 * 8);
  }

  void read_model_section(uint32_t kind, std::span<const uint8_t> payload) {
    if (kind == kText) out_.text.assign(payload.begin(), payload.end());
    if (kind != kMix) return;
    if (payload.size() != sizeof(float) + 2 * out_.layers.size())
      fail("has a mix for another number of layers");
    Mix& mix = out_.mixes.emplace_back();
    std::memcpy(&mix.budget, payload.data(), sizeof mix.budget);
    if (!std::isfinite(mix.budget)) fail("has a mix whose budget is no number");
    for (size_t i = sizeof(float); i < payload.size(); i += 2) {
      mix.layers.push_back({static_cast<quire_codec>(payload[i]), static_cast<quire_codec>(payload[i + 1])});
    }
  }

  void read_layer_section(uint32_t kind, std::span<const uint8_t> payload, LayerCalibration* layer) const {
    const size_t channels = size_t{out_.kv_heads} * out_.head_dim;
    qwen3::LayerParams& params = layer->params;
    if (kind == kKeyBalance) params.key_balance = floats(payload, channels);
    if (kind == kKeyLevels) params.key_levels.push_back(levels(payload));
    if (kind == kValueLevels) params.value_levels.push_back(levels(payload));
    if (kind < kFirstStatistic || kind - kFirstStatistic >= kStatistics.size()) return;
    layer->statistics.*kStatistics[kind - kFirstStatistic] = floats(payload, channels);
  }

  std::vector<float> floats(std::span<const uint8_t> payload, size_t count) const {
    if (payload.size() != count * sizeof(float)) fail("has a section of the wrong length");
    std::vector<float> values(count);
    std::memcpy(values.data(), payload.data(), payload.size());
    for (const float value : values) {
      if (std::isnan(value)) fail("holds NaN");
    }
    return values;
  }

  qwen3::CodecLevels levels(std::span<const uint8_t> payload) const {
    uint32_t codec = 0;
    if (payload.size() < sizeof codec) fail("has a section of the wrong length");
    std::memcpy(&codec, payload.data(), sizeof codec);
    const auto codes = payload.subspan(sizeof codec);
    return {static_cast<quire_codec>(codec), {codes.begin(), codes.end()}};
  }

  std::span<const uint8_t> bytes_;
  std::string name_;
  Calibration out_;
};

}  // namespace

std::vector<uint8_t> encode(const Calibration& calibration) {
  Writer writer;
  writer.text(calibration.text);
  for (const Mix& mix : calibration.mixes) writer.mix(mix);
  for (uint32_t i = 0; i < calibration.layers.size(); ++i) {
    const LayerCalibration& layer = calibration.layers[i];
    writer.floats(kKeyBalance, i, layer.params.key_balance);
    writer.levels(kKeyLevels, i, layer.params.key_levels);
    writer.levels(kValueLevels, i, layer.params.value_levels);
    for (uint32_t s = 0; s < kStatistics.size(); ++s) {
      writer.floats(kFirstStatistic + s, i, layer.statistics.*kStatistics[s]);
    }
  }
  return writer.finish({.magic = kMagic,
                        .version = kVersion,
                        .sections = 0,
                        .model = calibration.model,
                        .bytes = 0,
                        .layers = static_cast<uint32_t>(calibration.layers.size()),
                        .query_heads = calibration.query_heads,
                        .kv_heads = calibration.kv_heads,
                        .head_dim = calibration.head_dim,
                        .tokens = calibration.tokens,
                        .checksum = 0});
}

Calibration decode(std::span<const uint8_t> bytes, const std::string& name) {
  return Reader(bytes, name).read();
}

void write_calibration(const Calibration& calibration, const std::filesystem::path& path) {
  const std::vector<uint8_t> bytes = encode(calibration);
  // Beside the file and then over it, so that nobody ever reads half of one.
  const std::filesystem::path partial = path.string() + ".partial-" + std::to_string(getpid());
  std::ofstream out(partial, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  out.close();
  std::error_code error;
  if (out) std::filesystem::rename(partial, path, error);
  if (out && !error) return;
  std::filesystem::remove(partial, error);
  throw qwen3::Error("cannot write " + path.string() + "; give --out a file that can be written");
}

Calibration read_calibration(const std::filesystem::path& path) {
  const qwen3::MappedFile file(path);
  const auto bytes = file.bytes();
  return decode({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, path.string());
}

}  // namespace quire::bench
