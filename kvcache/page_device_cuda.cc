#include "kvcache/page_device_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "kvcache/charge.h"
#include "kvcache/cuda_status.h"
#include "kvcache/page_carrier_cuda.h"
#include "quant/carver.h"
#include "quant/cuda/launch.h"

namespace quire {
namespace {

constexpr uint32_t kEncodePages = 4;  // folded together
// Rows times runs of one launch, what fills the device: in decode, and in prefill where there is memory for
// it.
constexpr uint32_t kLeastPartialRows = 4096;
constexpr uint32_t kFillingRows = 32768;
constexpr uint32_t kLeastRunSections = 4;
constexpr uint32_t kPrefillRows = 64;  // of one kv head: from here on sections are read once for many rows
// Of unpacked sections, at most: what an L2 of 50 MB holds.
constexpr size_t kPrefillScratch = size_t{40} << 20;
constexpr uint32_t kLevels = 16;  // of a non-uniform side, at most

// The work space, once in the device's memory and once, for what crosses the link, in pinned host memory.
struct Space {
  float* keys;           // [kEncodePages][kv_heads][page_tokens][head_dim]
  float* values;         // as many
  uint8_t** sections;    // [kEncodePages][kv_heads]
  uint32_t* params;      // [kEncodePages][kv_heads][2]
  int8_t* levels;        // [layers][key, value][kLevels]
  float* q;              // [rows][head_dim]
  int32_t* first_token;  // [rows]
  SectionRef* refs;      // [space_pages][kv_heads]
  AttendState out;       // [rows]; m is ln of the sum of exp on the device; l on the host alone
};

class CudaPageDevice final : public PageDevice {
 public:
  CudaPageDevice(const PageDeviceSetup& setup, std::unique_ptr<Device> device, int index)
      : config_(setup.config),
        device_(std::move(device)),
        index_(index),
        wave_pages_(setup.wave_pages),
        space_pages_(setup.space_pages),
        carrier_(index) {
    step_rows_ = config_.max_step_tokens * config_.query_heads;
    rows_ = 2 * step_rows_;
    stride_ = (config_.largest_page_bytes() + kPageAlign - 1) / kPageAlign * kPageAlign;
  }
  ~CudaPageDevice() override {
    if (stream_ != nullptr) {
      (void)cudaStreamSynchronize(stream_);
      (void)cudaStreamDestroy(stream_);
    }
    if (pinned_ != nullptr) (void)cudaFreeHost(pinned_);
  }

  Status open(const PageDeviceSetup& setup) {
    if (Status status = select(); !status.ok()) return status;
    cudaError_t error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    if (error != cudaSuccess) return cuda_status(error, "creating a stream on " + std::string(name()));
    set_partial_rows(kFillingRows);
    set_scratch();
    size_t device_bytes = carve_device(nullptr);
    if (device_bytes > setup.device_budget.available() / 2) {
      // Prefill can do with less, and pages cannot.
      set_partial_rows(kLeastPartialRows);
      scratch_bytes_ = 0;
      device_bytes = carve_device(nullptr);
    }
    if (Status charged = device_charge_.take(setup.device_budget, device_bytes); !charged.ok()) {
      return {charged.code(),
              "device_budget has no room for the work space of the device (lower "
              "max_step_tokens or raise it): " +
                  charged.message()};
    }
    Result<DeviceBuffer> work = device_->allocate(device_bytes);
    if (!work.ok()) return work.status();
    work_ = std::move(*work);
    carve_device(work_.data());
    const size_t host_bytes = carve_host(nullptr);
    if (Status status = host_charge_.take(setup.host_budget, host_bytes); !status.ok()) {
      return {status.code(),
              "host_budget has no room for what crosses the link to the device (lower "
              "max_step_tokens or raise it): " +
                  status.message()};
    }
    error = cudaMallocHost(reinterpret_cast<void**>(&pinned_), host_bytes);
    pinned_bytes_ = host_bytes;
    if (error != cudaSuccess) {
      return cuda_status(error, "pinning " + std::to_string(host_bytes) + " bytes of host memory");
    }
    carve_host(pinned_);
    if (Status status = carrier_.open(*device_, setup, stride_, copies_); !status.ok()) return status;
    return load_levels();
  }

  std::string_view name() const override { return device_->name(); }
  Result<std::unique_ptr<Stream>> create_stream() override { return device_->create_stream(); }

  Result<std::unique_ptr<Event>> mark(void* stream) override {
    Result<std::unique_ptr<Stream>> adopted = adopt_cuda_stream(*device_, stream);
    if (!adopted.ok()) return adopted.status();
    Result<std::unique_ptr<Event>> event = device_->create_event();
    if (!event.ok()) return event.status();
    if (Status status = (*adopted)->record(**event); !status.ok()) return status;
    return event;
  }

  uint8_t* map(size_t bytes) override {
    Result<DeviceBuffer> buffer = device_->allocate(bytes);
    if (!buffer.ok()) return nullptr;
    uint8_t* data = buffer->data();
    chunks_.emplace(data, std::move(*buffer));
    return data;
  }
  void unmap(uint8_t* data, size_t /*bytes*/) override { chunks_.erase(data); }

  uint32_t encode_pages() const override { return kEncodePages; }

  Result<EncodedBatch> encode(const EncodeBatch& batch) override {
    if (Status status = select(); !status.ok()) return status;
    const LayerConfig& layer = config_.layer[batch.layer];
    const PageLayout& layout = batch.first_page ? layer.first_layout : layer.layout;
    const size_t side = config_.frame_side_floats();
    const auto pages = static_cast<uint32_t>(batch.frames.size());
    const uint32_t sections = pages * config_.kv_heads;
    for (uint32_t p = 0; p < pages; ++p) {
      std::memcpy(host_.keys + p * side, batch.frames[p], side * sizeof(float));
      std::memcpy(host_.values + p * side, batch.frames[p] + side, side * sizeof(float));
      for (uint32_t head = 0; head < config_.kv_heads; ++head) {
        host_.sections[p * config_.kv_heads + head] =
            batch.slots[p] + layout.header_bytes + size_t{head} * layout.section.bytes;
      }
    }
    up(on_device_.keys, host_.keys, pages * side);
    up(on_device_.values, host_.values, pages * side);
    up(on_device_.sections, host_.sections, sections);
    const cuda::EncodeArgs args{format(batch.layer, batch.first_page),
                                on_device_.keys,
                                on_device_.values,
                                on_device_.sections,
                                on_device_.params,
                                sections};
    note(cuda::encode_sections(args, stream_));
    down(host_.params, on_device_.params, size_t{sections} * 2);
    for (uint32_t p = 0; p < pages; ++p) down(pages_ + p * stride_, batch.slots[p], layout.bytes);
    if (Status status = synchronize("folding pages"); !status.ok()) return status;
    return EncodedBatch{pages_, stride_, host_.params};
  }

  Status store(uint8_t* slot, const uint8_t* bytes, size_t count) override {
    up(slot, bytes, count);
    return synchronize("storing a page");
  }

  Result<const uint8_t*> fetch(const uint8_t* slot, size_t count) override {
    down(pages_, slot, count);
    if (Status status = synchronize("fetching a page"); !status.ok()) return status;
    return static_cast<const uint8_t*>(pages_);
  }

  uint8_t* tensor_room(uint32_t room) override {
    return reinterpret_cast<uint8_t*>(room == 0 ? host_.q : host_.out.o);
  }

  Status copy_rows(const RowCopy& copy) override {
    if (Status status = select(); !status.ok()) return status;
    const cudaError_t error = cudaMemcpy2DAsync(copy.to, copy.to_stride, copy.from, copy.from_stride,
                                                copy.bytes, copy.count, cudaMemcpyDefault, stream_);
    return cuda_status(error, "copying a tensor of the engine's");
  }
  Status finish_copies() override { return synchronize("copying a tensor of the engine's"); }

  SlotMemory& host_memory() override { return carrier_.host_memory(); }
  void pin(std::span<uint8_t> memory) override { carrier_.host_memory().pin(memory); }
  void unpin(std::span<uint8_t> memory) override { carrier_.host_memory().unpin(memory); }
  uint32_t carry_room() const override { return carrier_.room(); }
  Result<CarriedFrames> carry(std::span<const CarriedPage> pages) override {
    if (Status status = select(); !status.ok()) return status;
    note(carrier_.carry(pages, stream_));
    if (Status status = take_error("carrying pages"); !status.ok()) return status;
    return carrier_.frames();
  }
  Result<uint64_t> try_link(uint32_t pages) override {
    std::vector<CarriedPage> sources;
    // Memory that the device has not read lately: its caches serve what it has.
    pages = static_cast<uint32_t>(std::min<uint64_t>(pages, pinned_bytes_ / stride_));
    for (uint32_t i = 0; i < pages; ++i) {
      sources.push_back({pinned_ + i * stride_, static_cast<uint32_t>(stride_)});
    }
    if (const Result<CarriedFrames> frames = carry(sources); !frames.ok()) return frames.status();
    if (Status status = synchronize("measuring the link"); !status.ok()) return status;
    return pages * stride_;
  }

  DeviceAttendSpace attend_space() override {
    return {host_.q, host_.first_token, host_.refs, host_.out, rows_, space_pages_ * config_.kv_heads};
  }

  Status load_queries(uint32_t rows) override {
    up(on_device_.q, host_.q, size_t{rows} * config_.head_dim);
    return take_error("copying queries");
  }

  Status begin_wave(const WaveSpace& wave) override {
    up(on_device_.refs + wave.first_ref, host_.refs + wave.first_ref, wave.refs);
    up(on_device_.first_token + wave.first_row, host_.first_token + wave.first_row, wave.rows);
    return take_error("copying references of pages");
  }

  Status attend(const DeviceAttend& call) override {
    if (Status status = select(); !status.ok()) return status;
    for (const DeviceRows& tile : call.tiles) attend_rows(call, tile);
    return take_error("attending pages");
  }

  Status end_waves(uint32_t rows) override {
    down(host_.out.o, on_device_.out.o, size_t{rows} * config_.head_dim);
    down(host_.out.m, on_device_.out.m, rows);
    if (Status status = synchronize("attending pages"); !status.ok()) return status;
    for (uint32_t r = 0; r < rows; ++r) {
      host_.out.l[r] = std::isinf(host_.out.m[r]) ? 0.0F : 1.0F;
      host_.out.m[r] *= std::numbers::log2e_v<float>;
    }
    return {};
  }

 private:
  size_t carve_device(uint8_t* base) {
    Carver carver(base);
    carve_shared(&carver, &on_device_);
    on_device_.levels = carver.take<int8_t>(size_t{config_.layers} * 2 * kLevels);
    on_device_.out = {carver.take<float>(size_t{rows_} * config_.head_dim), carver.take<float>(rows_),
                      nullptr};
    partials_ = {carver.take<float>(size_t{partial_rows_} * config_.head_dim),
                 carver.take<float>(partial_rows_), carver.take<float>(partial_rows_)};
    scratch_ = carver.take<uint8_t>(scratch_bytes_);
    return carver.used();
  }
  void set_partial_rows(uint32_t filling) {
    partial_rows_ = std::max(
        {std::min(filling, kLeastPartialRows + 8 * step_rows_), config_.kv_heads * kMaxTileRows, step_rows_});
  }
  // As much as the pages of a wave need when they are one run, and as the most runs need.
  void set_scratch() {
    scratch_bytes_ = 0;
    if (step_rows_ < kPrefillRows * config_.kv_heads || !has_rotated_pages()) return;
    const auto needed = [&](uint32_t runs, uint32_t sections) {
      return cuda::prefill_scratch_bytes(config_.shape(), config_.kv_heads, runs, sections);
    };
    const uint32_t most_runs = std::min(partial_rows_ / (config_.kv_heads * kPrefillRows),
                                        (wave_pages_ + kLeastRunSections - 1) / kLeastRunSections);
    scratch_bytes_ = std::max(std::min(kPrefillScratch, needed(1, wave_pages_)), needed(most_runs, 1));
  }
  bool has_rotated_pages() const {
    return std::ranges::any_of(config_.layer, [](const LayerConfig& layer) {
      return find_codec(layer.kind.key_codec)->space == CodecSpace::kRotated &&
             find_codec(layer.kind.value_codec)->space == CodecSpace::kRotated;
    });
  }
  size_t carve_host(uint8_t* base) {
    Carver carver(base);
    carve_shared(&carver, &host_);
    host_.levels = nullptr;
    host_.out = {carver.take<float>(size_t{rows_} * config_.head_dim), carver.take<float>(rows_),
                 carver.take<float>(rows_)};
    pages_ = carver.take<uint8_t>(size_t{kEncodePages} * stride_);
    copies_ = carver.take<cuda::PageCopy>(wave_pages_);
    return carver.used();
  }
  void carve_shared(Carver* carver, Space* space) const {
    const size_t sections = size_t{kEncodePages} * config_.kv_heads;
    space->keys = carver->take<float>(size_t{kEncodePages} * config_.frame_side_floats());
    space->values = carver->take<float>(size_t{kEncodePages} * config_.frame_side_floats());
    space->sections = carver->take<uint8_t*>(sections);
    space->params = carver->take<uint32_t>(sections * 2);
    space->q = carver->take<float>(size_t{rows_} * config_.head_dim);
    space->first_token = carver->take<int32_t>(rows_);
    space->refs = carver->take<SectionRef>(size_t{space_pages_} * config_.kv_heads);
  }

  Status load_levels() {
    std::vector<int8_t> all(size_t{config_.layers} * 2 * kLevels);
    for (uint32_t i = 0; i < config_.layers; ++i) {
      const LayerConfig& layer = config_.layer[i];
      std::ranges::copy(layer.key_levels, all.begin() + i * 2 * kLevels);
      std::ranges::copy(layer.value_levels, all.begin() + (i * 2 + 1) * kLevels);
    }
    up(on_device_.levels, all.data(), all.size());
    return synchronize("copying levels of codecs");
  }

  cuda::SectionFormat format(uint32_t index, bool first_page) const {
    const LayerConfig& layer = config_.layer[index];
    cuda::SectionFormat result = cuda::section_format(first_page ? layer.first_kind : layer.kind);
    const int8_t* levels = on_device_.levels + size_t{index} * 2 * kLevels;
    if (!layer.key_levels.empty()) result.key_levels = levels;
    if (!layer.value_levels.empty()) result.value_levels = levels + kLevels;
    return result;
  }

  void attend_rows(const DeviceAttend& call, const DeviceRows& tile) {
    const uint32_t heads = config_.kv_heads;
    const size_t dim = config_.head_dim;
    const uint32_t most_runs = std::max(1U, partial_rows_ / (heads * tile.rows));
    cuda::AttendArgs args{};
    args.format = format(call.layer, tile.sinks);
    args.sections = on_device_.refs + call.first_ref + tile.first_section;
    args.section_stride = call.pages;
    args.section_count = tile.section_count;
    args.run_sections = std::max(kLeastRunSections, (tile.section_count + most_runs - 1) / most_runs);
    args.kv_heads = heads;
    args.q = on_device_.q + tile.row * dim;
    args.rows = tile.rows;
    const uint32_t state_row = call.state_row + tile.row;
    args.first_token = tile.windowed ? on_device_.first_token + state_row : nullptr;
    args.partials = partials_;
    args.scratch = scratch_;
    args.scratch_bytes = scratch_bytes_;
    note(tile.rows < kPrefillRows ? cuda::attend_decode(args, stream_) : cuda::attend_prefill(args, stream_));
    note(cuda::merge_partials({partials_, cuda::run_count(args), heads, tile.rows, config_.head_dim,
                               on_device_.out.o + state_row * dim, on_device_.out.m + state_row},
                              stream_));
  }

  Status select() const { return cuda_status(cudaSetDevice(index_), "using " + std::string(name())); }

  // Work is given without asking each time: the first error is kept and taken at the end.
  void note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }
  template <typename T>
  void up(T* to, const T* from, size_t count) {
    if (count > 0) note(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyHostToDevice, stream_));
  }
  template <typename T>
  void down(T* to, const T* from, size_t count) {
    if (count > 0) note(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToHost, stream_));
  }
  Status take_error(const char* what) {
    return cuda_status(std::exchange(error_, cudaSuccess), what + (" on " + std::string(name())));
  }
  Status synchronize(const char* what) {
    note(cudaStreamSynchronize(stream_));
    return take_error(what);
  }

  const CacheConfig& config_;
  const std::unique_ptr<Device> device_;
  const int index_;
  const uint32_t wave_pages_;
  const uint32_t space_pages_;
  uint32_t step_rows_;  // of the largest step
  uint32_t rows_;       // of queries and outputs: they stand in two orders
  uint32_t partial_rows_ = 0;
  size_t stride_;
  Charge device_charge_;
  Charge host_charge_;
  cudaStream_t stream_ = nullptr;
  cudaError_t error_ = cudaSuccess;
  DeviceBuffer work_;
  uint8_t* pinned_ = nullptr;
  size_t pinned_bytes_ = 0;
  Space on_device_{};
  Space host_{};
  uint8_t* pages_ = nullptr;          // [kEncodePages][stride_], on the host
  cuda::PageCopy* copies_ = nullptr;  // [wave_pages_], on the host
  uint8_t* scratch_ = nullptr;        // of prefill
  size_t scratch_bytes_ = 0;
  AttendState partials_{};  // [partial_rows_], on the device
  CudaPageCarrier carrier_;
  std::map<uint8_t*, DeviceBuffer> chunks_;
};

Status check(const CacheConfig& config) {
  if (config.key_space == KeySpace::kPreRope) {
    return {StatusCode::kUnsupported,
            "pre_rope keys are not attended on a device yet: use post_rope, or the CPU"};
  }
  if (config.digests) {
    return {StatusCode::kUnsupported,
            "digests are not kept of pages on a device yet: use digests = 0, or the CPU"};
  }
  for (const LayerConfig& layer : config.layer) {
    if (const char* refusal = cuda::device_refusal(layer.kind)) return {StatusCode::kUnsupported, refusal};
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<PageDevice>> create_cuda_page_device(const PageDeviceSetup& setup,
                                                            const CudaDeviceOptions& options) {
  if (Status status = check(setup.config); !status.ok()) return status;
  Result<std::unique_ptr<Device>> device = create_cuda_device(options);
  if (!device.ok()) return device.status();
  auto page_device = std::make_unique<CudaPageDevice>(setup, std::move(*device), options.index);
  if (Status status = page_device->open(setup); !status.ok()) return status;
  return std::unique_ptr<PageDevice>(std::move(page_device));
}

}  // namespace quire
