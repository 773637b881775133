// Folding, unfolding, merging, rotating: bytes that move against the copy's rate.
#include <algorithm>

#include "bench/gpu/device_work.h"
#include "bench/gpu/pages.h"

namespace quire::gpu {
namespace {

constexpr double kEncodeGoal = 0.60;
constexpr uint32_t kCopyMiB = 1024;

// Sections to fold, more bytes than the caches hold.
struct Rows {
  explicit Rows(const Bench& bench)
      : count(static_cast<uint32_t>(
            cold_bytes(bench) / (size_t{8} * bench.options.shape.tokens * bench.options.shape.dim) + 1)),
        values(size_t{count} * bench.options.shape.tokens * bench.options.shape.dim),
        keys_in(values),
        values_in(values) {
    require(fill_normal(keys_in.data(), values, 3, bench.stream), "making keys");
    require(fill_normal(values_in.data(), values, 4, bench.stream), "making values");
  }
  size_t bytes() const { return keys_in.bytes() + values_in.bytes(); }
  uint32_t count;  // sections
  size_t values;   // numbers of one side
  DeviceMemory<float> keys_in;
  DeviceMemory<float> values_in;
};

// As many bytes of sections as an engine has them: bf16 [tokens][kv_heads][dim], which kernels rotate on the
// way where codecs want it.
struct Tensors {
  explicit Tensors(const Bench& bench)
      : heads(bench.options.kv_heads),
        count(static_cast<uint32_t>(cold_bytes(bench) / (4 * heads * section(bench)) + 1) * heads),
        keys_in(count * section(bench)),
        values_in(count * section(bench)) {
    require(fill_normal_bf16(keys_in.data(), count * section(bench), 3, bench.stream), "making keys");
    require(fill_normal_bf16(values_in.data(), count * section(bench), 4, bench.stream), "making values");
  }
  static size_t section(const Bench& bench) {
    return size_t{bench.options.shape.tokens} * bench.options.shape.dim;
  }
  cuda::EncodeInput input(const DeviceMemory<uint16_t>& x, const cuda::DeviceCodec& codec,
                          SectionShape shape) const {
    const bool rotated = find_codec(codec.id)->space == CodecSpace::kRotated;
    const uint64_t row = uint64_t{heads} * shape.dim;
    return {.data = x.data(),
            .type = cuda::InputType::kBf16,
            .heads = heads,
            .page_stride = shape.tokens * row,
            .head_stride = shape.dim,
            .token_stride = row,
            .rotate = rotated && cuda::rotates_input(shape)};
  }
  size_t bytes() const { return keys_in.bytes() + values_in.bytes(); }
  uint32_t heads;
  uint32_t count;  // sections, in whole pages
  DeviceMemory<uint16_t> keys_in;
  DeviceMemory<uint16_t> values_in;
};

// Room for folded sections, one after the other.
struct Sections {
  Sections(const Bench& bench, const CodecPair& codecs, uint32_t n)
      : format(cuda::section_format(page_kind(bench, codecs))),
        bytes(size_t{n} * format.layout.bytes),
        places(pointers(n)),
        params(size_t{2} * n) {}
  std::vector<uint8_t*> pointers(uint32_t n) const {
    std::vector<uint8_t*> all(n);
    for (uint32_t i = 0; i < n; ++i) all[i] = bytes.data() + size_t{i} * format.layout.bytes;
    return all;
  }
  cudaError_t encode(const Bench& bench, const Rows& rows) const {
    return cuda::encode_sections(
        {format, cuda::dense_input(rows.keys_in.data(), format.shape),
         cuda::dense_input(rows.values_in.data(), format.shape), places.data(), params.data(), rows.count},
        bench.stream);
  }
  cudaError_t encode(const Bench& bench, const Tensors& tensors) const {
    return cuda::encode_sections({format, tensors.input(tensors.keys_in, format.key, format.shape),
                                  tensors.input(tensors.values_in, format.value, format.shape), places.data(),
                                  params.data(), tensors.count},
                                 bench.stream);
  }
  cuda::SectionFormat format;
  DeviceMemory<uint8_t> bytes;
  DeviceMemory<uint8_t*> places;
  DeviceMemory<uint32_t> params;
};

template <typename Input>
void time_encode(const Bench& bench, const Input& input, const std::string& name, double goal) {
  for (const CodecPair& codecs : bench.options.codecs) {
    const Sections sections(bench, codecs, input.count);
    const Time time = time_calls(bench.stream, bench.options.batches,
                                 [&](uint32_t) { return sections.encode(bench, input); });
    const auto moved = static_cast<double>(input.bytes() + sections.bytes.bytes());
    bench.report->add(
        {"encode", codecs.name() + " of " + name, time, moved, "B", bench.copy_rate, "copy", goal});
  }
}

}  // namespace

size_t cold_bytes(const Bench& bench) { return size_t{6} * static_cast<size_t>(bench.device.l2CacheSize); }

void measure_copy(Bench* bench) {
  constexpr size_t kBytes = size_t{kCopyMiB} << 20;
  const DeviceMemory<uint8_t> from(kBytes);
  const DeviceMemory<uint8_t> to(kBytes);
  require(fill_normal(reinterpret_cast<float*>(from.data()), kBytes / 4, 9, bench->stream), "filling memory");
  const Time time = time_calls(bench->stream, bench->options.batches, [&](uint32_t) {
    return cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, bench->stream);
  });
  const Row row{"copy", "1 GiB, bytes read and written", time, 2.0 * kBytes, "B", 0, "", 0};
  bench->copy_rate = row.rate();
  bench->report->add(row);
}

void run_encode(const Bench& bench) {
  time_encode(bench, Rows(bench), "f32", kEncodeGoal);
  time_encode(bench, Tensors(bench), "tensors of bf16", 0);
}

void run_decode(const Bench& bench) {
  const Rows rows(bench);
  for (const CodecPair& codecs : bench.options.codecs) {
    const Sections sections(bench, codecs, rows.count);
    require(sections.encode(bench, rows), "encoding");
    require(cudaStreamSynchronize(bench.stream), "encoding");
    const std::vector<uint8_t*> places = sections.pointers(rows.count);
    const std::vector<uint32_t> params = sections.params.host();
    std::vector<SectionRef> refs(rows.count);
    for (uint32_t i = 0; i < rows.count; ++i) refs[i] = {places[i], params[2 * i], params[2 * i + 1]};
    const DeviceMemory<SectionRef> device_refs(refs);
    const DeviceMemory<float> keys(rows.values);
    const DeviceMemory<float> values(rows.values);
    const Time time = time_calls(bench.stream, bench.options.batches, [&](uint32_t) {
      return cuda::decode_sections(
          {sections.format, device_refs.data(), keys.data(), values.data(), rows.count}, bench.stream);
    });
    const double moved = 8.0 * static_cast<double>(rows.values) + static_cast<double>(sections.bytes.bytes());
    bench.report->add({"decode", codecs.name() + " to f32", time, moved, "B", bench.copy_rate, "copy", 0});
  }
}

void run_merge(const Bench& bench) {
  const uint32_t dim = bench.options.shape.dim;
  const uint32_t heads = bench.options.kv_heads;
  constexpr uint32_t kRows = 2048;
  const auto count = static_cast<uint32_t>(cold_bytes(bench) / (size_t{heads} * kRows * dim * 4) + 1);
  const size_t partials = size_t{heads} * count * kRows;
  const DeviceMemory<float> o(partials * dim);
  const DeviceMemory<float> m(partials);
  const DeviceMemory<float> l(partials);
  const DeviceMemory<float> out(size_t{heads} * kRows * dim);
  const DeviceMemory<float> lse(size_t{heads} * kRows);
  require(fill_normal(o.data(), partials * dim, 5, bench.stream), "making partials");
  require(fill_normal(m.data(), partials, 6, bench.stream), "making partials");
  require(fill_normal(l.data(), partials, 7, bench.stream), "making partials");
  for (const bool onto : {false, true}) {
    const Time time = time_calls(bench.stream, bench.options.batches, [&](uint32_t) {
      return cuda::merge_partials(
          {{o.data(), m.data(), l.data()}, count, heads, kRows, dim, out.data(), lse.data(), onto},
          bench.stream);
    });
    const size_t of_state = (out.bytes() + lse.bytes()) * (onto ? 2 : 1);
    bench.report->add(
        {"merge", std::to_string(count) + " partials of 2048 rows" + (onto ? " onto another" : ""), time,
         static_cast<double>(o.bytes() + m.bytes() + l.bytes() + of_state), "B", bench.copy_rate, "copy", 0});
  }
}

void run_rotate(const Bench& bench) {
  const uint32_t dim = bench.options.shape.dim;
  const auto rows = static_cast<uint32_t>(cold_bytes(bench) / (size_t{4} * dim) + 1);
  const DeviceMemory<float> x(size_t{rows} * dim);
  require(fill_normal(x.data(), size_t{rows} * dim, 8, bench.stream), "making rows");
  const Time time = time_calls(bench.stream, bench.options.batches, [&](uint32_t) {
    return cuda::rotate_rows(x.data(), rows, dim, nullptr, bench.stream);
  });
  bench.report->add({"rotate", "rows of " + std::to_string(dim), time, 2.0 * static_cast<double>(x.bytes()),
                     "B", bench.copy_rate, "copy", 0});
}

}  // namespace quire::gpu
