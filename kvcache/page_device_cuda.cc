#include "kvcache/page_device_cuda.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "kvcache/charge.h"
#include "kvcache/cuda_queue.h"
#include "kvcache/layers_cuda.h"
#include "kvcache/page_carrier_cuda.h"
#include "kvcache/page_encoder_cuda.h"
#include "quant/carver.h"
#include "quant/cuda/launch.h"

namespace quire {
namespace {

// Rows times runs of one launch, what fills the device: in decode, and in prefill where there is memory for
// it.
constexpr uint32_t kLeastPartialRows = 4096;
constexpr uint32_t kFillingRows = 32768;
constexpr uint32_t kLeastRunSections = 4;
constexpr uint32_t kPrefillRows = 64;  // of one kv head: from here on sections are read once for many rows
// Of unpacked sections, at most: what an L2 of 50 MB holds.
constexpr size_t kPrefillScratch = size_t{40} << 20;

// The work space of attention, once in the device's memory and once, for what crosses the link, in pinned
// host memory.
struct Space {
  float* q;                 // [rows][head_dim]
  int32_t* first_token;     // [input_rows]
  uint32_t* head_sections;  // [input_rows], with digests
  SectionRef* refs;         // [space_pages][kv_heads]
  float* base_cos;          // [space_pages][head_dim / 2], pre_rope alone
  float* base_sin;
  AttendState out;  // [rows]; m is ln of the sum of exp on the device; l on the host alone
};

class CudaPageDevice final : public PageDevice {
 public:
  CudaPageDevice(const PageDeviceSetup& setup, std::unique_ptr<Device> device, int index)
      : config_(setup.config),
        device_(std::move(device)),
        wave_pages_(setup.wave_pages),
        space_pages_(setup.space_pages),
        step_rows_(config_.max_step_tokens * config_.query_heads),
        rows_(2 * step_rows_),
        input_rows_(rows_ * std::max(1U, space_pages_ / wave_pages_)),
        stride_((config_.largest_page_bytes() + kPageAlign - 1) / kPageAlign * kPageAlign),
        queue_(index),
        layers_(config_),
        encoder_(config_, queue_, layers_, stride_),
        carrier_(index) {}
  ~CudaPageDevice() override {
    if (queue_.stream() != nullptr) (void)cudaStreamSynchronize(queue_.stream());
    if (pinned_ != nullptr) (void)cudaFreeHost(pinned_);
  }

  Status open(const PageDeviceSetup& setup) {
    if (Status status = queue_.open(std::string(name())); !status.ok()) return status;
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
    const cudaError_t error = cudaMallocHost(reinterpret_cast<void**>(&pinned_), host_bytes);
    pinned_bytes_ = host_bytes;
    if (error != cudaSuccess) {
      return cuda_status(error, "pinning " + std::to_string(host_bytes) + " bytes of host memory");
    }
    carve_host(pinned_);
    if (Status status = carrier_.open(*device_, setup, stride_, copies_); !status.ok()) return status;
    if (Status status = layers_.load(queue_); !status.ok()) return status;
    return encoder_.open();
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

  uint32_t encode_pages() const override { return CudaPageEncoder::kPages; }
  Result<EncodedBatch> encode(const EncodeBatch& batch) override { return encoder_.encode(batch); }

  Status store(uint8_t* slot, const uint8_t* bytes, size_t count) override {
    queue_.up(slot, bytes, count);
    return queue_.synchronize("storing a page");
  }

  Result<const uint8_t*> fetch(const uint8_t* slot, size_t count) override {
    queue_.down(encoder_.pages(), slot, count);
    if (Status status = queue_.synchronize("fetching a page"); !status.ok()) return status;
    return static_cast<const uint8_t*>(encoder_.pages());
  }

  uint8_t* tensor_room(uint32_t room) override {
    return reinterpret_cast<uint8_t*>(room == 0 ? host_.q : host_.out.o);
  }

  Status copy_rows(const RowCopy& copy) override {
    if (Status status = queue_.select(); !status.ok()) return status;
    const cudaError_t error = cudaMemcpy2DAsync(copy.to, copy.to_stride, copy.from, copy.from_stride,
                                                copy.bytes, copy.count, cudaMemcpyDefault, queue_.stream());
    return cuda_status(error, "copying a tensor of the engine's");
  }
  Status finish_copies() override { return queue_.synchronize("copying a tensor of the engine's"); }

  SlotMemory& host_memory() override { return carrier_.host_memory(); }
  void pin(std::span<uint8_t> memory) override { carrier_.host_memory().pin(memory); }
  void unpin(std::span<uint8_t> memory) override { carrier_.host_memory().unpin(memory); }
  uint32_t carry_room() const override { return carrier_.room(); }
  Result<CarriedFrames> carry(std::span<const CarriedPage> pages) override {
    return carrier_.carry(pages, queue_.stream());
  }
  Result<uint64_t> try_link(uint32_t pages) override {
    std::vector<CarriedPage> sources;
    // Memory that the device has not read lately: its caches serve what it has.
    pages = static_cast<uint32_t>(std::min<uint64_t>(pages, pinned_bytes_ / stride_));
    for (uint32_t i = 0; i < pages; ++i) {
      sources.push_back({pinned_ + i * stride_, static_cast<uint32_t>(stride_)});
    }
    if (const Result<CarriedFrames> frames = carry(sources); !frames.ok()) return frames.status();
    if (Status status = queue_.synchronize("measuring the link"); !status.ok()) return status;
    return pages * stride_;
  }

  DeviceAttendSpace attend_space() override {
    return {host_.q,    host_.first_token, host_.head_sections,
            host_.refs, host_.base_cos,    host_.base_sin,
            host_.out,  input_rows_,       space_pages_ * config_.kv_heads};
  }

  Status load_queries(uint32_t rows) override {
    queue_.up(on_device_.q, host_.q, size_t{rows} * config_.head_dim);
    return queue_.take_error("copying queries");
  }

  Status begin_wave(const WaveSpace& wave) override {
    queue_.up(on_device_.refs + wave.first_ref, host_.refs + wave.first_ref, wave.refs);
    const auto rows = [&](auto* to, const auto* from, bool wanted) {
      if (wanted) queue_.up(to + wave.first_row, from + wave.first_row, wave.rows);
    };
    rows(on_device_.first_token, host_.first_token, wave.windowed);
    rows(on_device_.head_sections, host_.head_sections, wave.counted);
    if (pre_rope()) {
      const size_t half = config_.head_dim / 2;
      const size_t first = wave.first_ref / config_.kv_heads * half;
      const size_t count = wave.refs / config_.kv_heads * half;
      queue_.up(on_device_.base_cos + first, host_.base_cos + first, count);
      queue_.up(on_device_.base_sin + first, host_.base_sin + first, count);
    }
    return queue_.take_error("copying references of pages");
  }

  Status attend(uint32_t layer, std::span<const DeviceRows> rows) override {
    if (Status status = queue_.select(); !status.ok()) return status;
    for (const DeviceRows& each : rows) {
      if (Status status = load_offsets(each.offsets); !status.ok()) return status;
      attend_rows(layer, each);
    }
    return queue_.take_error("attending pages");
  }

  Status end_waves(uint32_t rows) override {
    queue_.down(host_.out.o, on_device_.out.o, size_t{rows} * config_.head_dim);
    queue_.down(host_.out.m, on_device_.out.m, rows);
    if (Status status = queue_.synchronize("attending pages"); !status.ok()) return status;
    for (uint32_t r = 0; r < rows; ++r) {
      host_.out.l[r] = std::isinf(host_.out.m[r]) ? 0.0F : 1.0F;
      host_.out.m[r] *= std::numbers::log2e_v<float>;
    }
    return {};
  }

 private:
  size_t carve_device(uint8_t* base) {
    Carver carver(base);
    encoder_.carve_device(&carver);
    layers_.carve(&carver);
    carve_shared(&carver, &on_device_);
    on_device_.out = {carver.take<float>(size_t{rows_} * config_.head_dim), carver.take<float>(rows_),
                      nullptr};
    partials_ = {carver.take<float>(size_t{partial_rows_} * config_.head_dim),
                 carver.take<float>(partial_rows_), carver.take<float>(partial_rows_)};
    scratch_ = carver.take<uint8_t>(scratch_bytes_);
    const size_t angles = pre_rope() ? size_t{config_.page_tokens} * (config_.head_dim / 2) : 0;
    token_cos_ = carver.take<float>(angles);
    token_sin_ = carver.take<float>(angles);
    return carver.used();
  }
  void set_partial_rows(uint32_t filling) {
    partial_rows_ = std::max(
        {std::min(filling, kLeastPartialRows + 8 * step_rows_), config_.kv_heads * kMaxTileRows, step_rows_});
  }
  // As much as the pages of a wave need when they are one run, and as the most runs need.
  void set_scratch() {
    scratch_bytes_ = 0;
    if (step_rows_ < kPrefillRows * config_.kv_heads || pre_rope() || !has_rotated_pages()) return;
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
    encoder_.carve_host(&carver);
    carve_shared(&carver, &host_);
    host_.out = {carver.take<float>(size_t{rows_} * config_.head_dim), carver.take<float>(rows_),
                 carver.take<float>(rows_)};
    copies_ = carver.take<cuda::PageCopy>(size_t{CudaPageCarrier::kSets} * wave_pages_);
    return carver.used();
  }
  void carve_shared(Carver* carver, Space* space) const {
    space->q = carver->take<float>(size_t{rows_} * config_.head_dim);
    space->first_token = carver->take<int32_t>(input_rows_);
    space->head_sections = carver->take<uint32_t>(config_.digests ? input_rows_ : 0);
    space->refs = carver->take<SectionRef>(size_t{space_pages_} * config_.kv_heads);
    const size_t angles = pre_rope() ? size_t{space_pages_} * (config_.head_dim / 2) : 0;
    space->base_cos = carver->take<float>(angles);
    space->base_sin = carver->take<float>(angles);
  }

  bool pre_rope() const { return config_.key_space == KeySpace::kPreRope; }

  // Makes these the angles inside a page; those of most calls are there already.
  Status load_offsets(const RopeOffsets* offsets) {
    if (offsets == nullptr || (offsets->cos == offsets_.cos && offsets->sin == offsets_.sin)) return {};
    // What was given earlier may still have to read the last ones.
    if (Status status = queue_.synchronize("attending pages"); !status.ok()) return status;
    offsets_ = *offsets;
    queue_.up(token_cos_, offsets_.cos.data(), offsets_.cos.size());
    queue_.up(token_sin_, offsets_.sin.data(), offsets_.sin.size());
    return {};
  }

  void attend_rows(uint32_t layer, const DeviceRows& rows) {
    const size_t dim = config_.head_dim;
    const uint32_t most_runs = std::max(1U, partial_rows_ / (rows.heads * rows.rows));
    cuda::AttendArgs args{};
    args.format = layers_.format(layer, rows.sinks);
    args.sections = on_device_.refs + rows.first_ref;
    args.section_stride = rows.stride;
    args.section_count = rows.section_count;
    args.run_sections = std::max(kLeastRunSections, (rows.section_count + most_runs - 1) / most_runs);
    args.kv_heads = rows.heads;
    args.q = on_device_.q + rows.query_row * dim;
    args.rows = rows.rows;
    args.first_token = rows.windowed ? on_device_.first_token + rows.input_row : nullptr;
    args.head_sections = rows.counted ? on_device_.head_sections + rows.input_row : nullptr;
    if (rows.offsets != nullptr) {
      args.rotation = {token_cos_,
                       token_sin_,
                       on_device_.base_cos + rows.first_angle,
                       on_device_.base_sin + rows.first_angle,
                       2 * rows.offsets->half,
                       layers_.key_balance(layer)};
    }
    args.partials = partials_;
    args.scratch = scratch_;
    args.scratch_bytes = scratch_bytes_;
    queue_.note(rows.rows < kPrefillRows ? cuda::attend_decode(args, queue_.stream())
                                         : cuda::attend_prefill(args, queue_.stream()));
    queue_.note(cuda::merge_partials(
        {partials_, cuda::run_count(args), rows.heads, rows.rows, config_.head_dim,
         on_device_.out.o + rows.state_row * dim, on_device_.out.m + rows.state_row, rows.onto},
        queue_.stream()));
  }

  const CacheConfig& config_;
  const std::unique_ptr<Device> device_;
  const uint32_t wave_pages_;
  const uint32_t space_pages_;
  const uint32_t step_rows_;  // of the largest step
  const uint32_t rows_;       // of queries and outputs: they stand in two orders
  const uint32_t input_rows_;
  const size_t stride_;
  uint32_t partial_rows_ = 0;
  Charge device_charge_;
  Charge host_charge_;
  CudaQueue queue_;
  DeviceBuffer work_;
  uint8_t* pinned_ = nullptr;
  size_t pinned_bytes_ = 0;
  Space on_device_{};
  Space host_{};
  cuda::PageCopy* copies_ = nullptr;  // of the carrier, on the host
  uint8_t* scratch_ = nullptr;        // of prefill
  size_t scratch_bytes_ = 0;
  AttendState partials_{};  // [partial_rows_], on the device
  // Of pre_rope keys, [head_dim / 2][page_tokens] on the device: as in offsets_.
  float* token_cos_ = nullptr;
  float* token_sin_ = nullptr;
  RopeOffsets offsets_;
  CudaLayers layers_;
  CudaPageEncoder encoder_;
  CudaPageCarrier carrier_;
  std::map<uint8_t*, DeviceBuffer> chunks_;
};

Status check(const CacheConfig& config) {
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
