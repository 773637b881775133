#include "kvcache/device_tensors.h"

#include <vector>

#include "kvcache/page_device.h"

namespace quire {
namespace {

// Where the rows of a head begin, and how far apart they are.
struct Layout {
  uint8_t* data;
  size_t token_bytes;
  size_t head_bytes;
};

template <typename View>
Layout layout_of(const View& view) {
  const size_t element = dtype_bytes(view.dtype);
  auto* data = static_cast<uint8_t*>(const_cast<void*>(static_cast<const void*>(view.data)));
  return {data, view.token_stride * element, view.head_stride * element};
}

bool whole_tokens(const Layout& layout, uint32_t heads, size_t row_bytes) {
  return layout.head_bytes == row_bytes && layout.token_bytes >= heads * row_bytes;
}

Status copy_tensor(PageDevice& device, const Layout& to, const Layout& from, uint32_t tokens, uint32_t heads,
                   size_t row_bytes) {
  if (tokens == 0) return {};
  const bool whole = whole_tokens(to, heads, row_bytes) && whole_tokens(from, heads, row_bytes);
  const size_t bytes = whole ? heads * row_bytes : row_bytes;
  for (uint32_t head = 0; head < (whole ? 1 : heads); ++head) {
    const Status status =
        device.copy_rows({to.data + head * to.head_bytes, to.token_bytes, from.data + head * from.head_bytes,
                          from.token_bytes, bytes, tokens});
    if (!status.ok()) return status;
  }
  return device.finish_copies();
}

}  // namespace

Result<TensorView> bring_down(const CacheContext& context, const TensorView& tensor, uint32_t tokens,
                              uint32_t heads, uint32_t room) {
  if (!tensor.on_device) return tensor;
  PageDevice& device = *context.residency.device();
  const uint32_t dim = context.config.head_dim;
  const TensorView host{device.tensor_room(room), tensor.dtype, uint64_t{heads} * dim, dim};
  const Status status =
      copy_tensor(device, layout_of(host), layout_of(tensor), tokens, heads, dim * dtype_bytes(tensor.dtype));
  if (!status.ok()) return status;
  return host;
}

MutableTensorView stand_in(const CacheContext& context, const MutableTensorView& tensor, uint32_t heads) {
  if (!tensor.on_device) return tensor;
  const uint32_t dim = context.config.head_dim;
  return {context.residency.device()->tensor_room(0), tensor.dtype, uint64_t{heads} * dim, dim};
}

Status bring_up(const CacheContext& context, const MutableTensorView& host, const MutableTensorView& tensor,
                uint32_t tokens, uint32_t heads) {
  if (!tensor.on_device) return {};
  const size_t row_bytes = context.config.head_dim * dtype_bytes(tensor.dtype);
  return copy_tensor(*context.residency.device(), layout_of(tensor), layout_of(host), tokens, heads,
                     row_bytes);
}

}  // namespace quire
