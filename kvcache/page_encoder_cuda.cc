#include "kvcache/page_encoder_cuda.h"

#include <cstddef>
#include <cstring>

#include "kvcache/context.h"
#include "quant/digest.h"

namespace quire {
namespace {

cuda::InputType input_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return cuda::InputType::kF32;
    case DType::kBf16:
      return cuda::InputType::kBf16;
    case DType::kF16:
      return cuda::InputType::kF16;
  }
  return cuda::InputType::kF32;
}

}  // namespace

void CudaPageEncoder::carve(Carver* carver, Space* space) const {
  const size_t sections = size_t{kPages} * config_.kv_heads;
  const size_t digests = config_.digests ? sections : 0;
  space->keys = carver->take<float>(size_t{kPages} * config_.frame_side_floats());
  space->values = carver->take<float>(size_t{kPages} * config_.frame_side_floats());
  space->sections = carver->take<uint8_t*>(sections);
  space->params = carver->take<uint32_t>(sections * 2);
  space->folded = carver->take<SectionRef>(digests);
  space->digests = carver->take<uint8_t>(digests * digest_bytes(config_.shape()));
  space->digest_at = carver->take<uint8_t*>(digests);
}

void CudaPageEncoder::carve_host(Carver* carver) {
  carve(carver, &host_);
  pages_ = carver->take<uint8_t>(kPages * stride_);
}

Status CudaPageEncoder::open() {
  if (!config_.digests) return {};
  const uint32_t sections = kPages * config_.kv_heads;
  for (uint32_t i = 0; i < sections; ++i) {
    host_.digest_at[i] = on_device_.digests + i * digest_bytes(config_.shape());
  }
  queue_.up(on_device_.digest_at, host_.digest_at, sections);
  return queue_.synchronize("placing digests");
}

// Whether the kernels bring values of these codecs into their space.
bool CudaPageEncoder::folds_given(const LayerConfig& layer) const {
  return cuda::rotates_input(config_.shape()) ||
         (!in_rotated_space(layer.key_codec) && !in_rotated_space(layer.value_codec));
}

CudaPageEncoder::Inputs CudaPageEncoder::given_inputs(uint32_t index, const KeysAndValues& given) const {
  const LayerConfig& layer = config_.layer[index];
  const auto input = [&](const TensorView& view, bool rotate, const float* balance) {
    return cuda::EncodeInput{.data = view.data,
                             .type = input_type(view.dtype),
                             .heads = config_.kv_heads,
                             .page_stride = config_.page_tokens * view.token_stride,
                             .head_stride = view.head_stride,
                             .token_stride = view.token_stride,
                             .rotate = rotate,
                             .balance = balance};
  };
  return {input(given.keys, in_rotated_space(layer.key_codec), layers_.key_balance(index)),
          input(given.values, in_rotated_space(layer.value_codec), nullptr)};
}

CudaPageEncoder::Inputs CudaPageEncoder::bring_up(std::span<const float* const> frames) {
  const size_t side = config_.frame_side_floats();
  for (size_t p = 0; p < frames.size(); ++p) {
    std::memcpy(host_.keys + p * side, frames[p], side * sizeof(float));
    std::memcpy(host_.values + p * side, frames[p] + side, side * sizeof(float));
  }
  queue_.up(on_device_.keys, host_.keys, frames.size() * side);
  queue_.up(on_device_.values, host_.values, frames.size() * side);
  return {cuda::dense_input(on_device_.keys, config_.shape()),
          cuda::dense_input(on_device_.values, config_.shape())};
}

Result<EncodedBatch> CudaPageEncoder::encode(const EncodeBatch& batch) {
  if (Status status = queue_.select(); !status.ok()) return status;
  const LayerConfig& layer = config_.layer[batch.layer];
  const PageLayout& layout = batch.first_page ? layer.first_layout : layer.layout;
  const auto pages = static_cast<uint32_t>(batch.frames.size());
  const uint32_t sections = pages * config_.kv_heads;
  for (uint32_t p = 0; p < pages; ++p) {
    for (uint32_t head = 0; head < config_.kv_heads; ++head) {
      host_.sections[p * config_.kv_heads + head] =
          batch.slots[p] + layout.header_bytes + size_t{head} * layout.section.bytes;
    }
  }
  queue_.up(on_device_.sections, host_.sections, sections);
  const bool as_given = batch.given != nullptr && folds_given(layer);
  const Inputs inputs = as_given ? given_inputs(batch.layer, *batch.given) : bring_up(batch.frames);
  const cuda::EncodeArgs args{layers_.format(batch.layer, batch.first_page),
                              inputs.keys,
                              inputs.values,
                              on_device_.sections,
                              on_device_.params,
                              sections};
  queue_.note(cuda::encode_sections(args, queue_.stream()));
  if (config_.digests) make_digests(args.format, sections);
  queue_.down(host_.params, on_device_.params, size_t{sections} * 2);
  for (uint32_t p = 0; p < pages; ++p) queue_.down(pages_ + p * stride_, batch.slots[p], layout.bytes);
  if (Status status = queue_.synchronize("folding pages"); !status.ok()) return status;
  return EncodedBatch{pages_, stride_, host_.params, config_.digests ? host_.digests : nullptr};
}

// Of the keys as they decode, which take the place of the unfolded ones.
void CudaPageEncoder::make_digests(const cuda::SectionFormat& format, uint32_t sections) {
  constexpr size_t kParams = 2 * sizeof(uint32_t);
  constexpr size_t kParamsAt = offsetof(SectionRef, key_param);
  static_assert(offsetof(SectionRef, value_param) == kParamsAt + sizeof(uint32_t));
  for (uint32_t i = 0; i < sections; ++i) host_.folded[i] = {host_.sections[i], 0, 0};
  queue_.up(on_device_.folded, host_.folded, sections);
  queue_.note(cudaMemcpy2DAsync(reinterpret_cast<uint8_t*>(on_device_.folded) + kParamsAt, sizeof(SectionRef),
                                on_device_.params, kParams, kParams, sections, cudaMemcpyDeviceToDevice,
                                queue_.stream()));
  queue_.note(cuda::decode_sections({format, on_device_.folded, on_device_.keys, nullptr, sections},
                                    queue_.stream()));
  queue_.note(
      cuda::make_digests({format.shape, on_device_.keys, on_device_.digest_at, sections}, queue_.stream()));
  queue_.down(host_.digests, on_device_.digests, sections * digest_bytes(config_.shape()));
}

}  // namespace quire
