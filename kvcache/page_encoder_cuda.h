// Folding on a GPU: unfolded pages go up, unless the engine's tensors have them there, and their bytes and
// digests come down.
//
// Thread safety: called on the compute stream alone.
#pragma once

#include "kvcache/layers_cuda.h"
#include "kvcache/page_device.h"

namespace quire {

class CudaPageEncoder {
 public:
  static constexpr uint32_t kPages = 4;  // folded together

  // stride: at least the largest page's bytes. All outlive this.
  CudaPageEncoder(const CacheConfig& config, CudaQueue& queue, const CudaLayers& layers, size_t stride)
      : config_(config), queue_(queue), layers_(layers), stride_(stride) {}

  // Its memory there, and pinned memory of the host.
  void carve_device(Carver* carver) { carve(carver, &on_device_); }
  void carve_host(Carver* carver);
  // After both.
  Status open();
  // As PageDevice has it.
  Result<EncodedBatch> encode(const EncodeBatch& batch);
  // Where pages come down: [kPages][stride].
  uint8_t* pages() const { return pages_; }

 private:
  // Once in the device's memory and once, for what crosses the link, in pinned host memory.
  struct Space {
    float* keys;          // [kPages][kv_heads][page_tokens][head_dim]
    float* values;        // as many
    uint8_t** sections;   // [kPages][kv_heads]
    uint32_t* params;     // [kPages][kv_heads][2]
    SectionRef* folded;   // [kPages][kv_heads]: the sections again; this and what follows for digests alone
    uint8_t* digests;     // [kPages][kv_heads][digest_bytes]
    uint8_t** digest_at;  // [kPages][kv_heads]: where these lie on the device
  };
  // Keys and values of a batch, on the device when what the queue has been given is done.
  struct Inputs {
    cuda::EncodeInput keys;
    cuda::EncodeInput values;
  };
  void carve(Carver* carver, Space* space) const;
  bool folds_given(const LayerConfig& layer) const;
  Inputs given_inputs(uint32_t layer, const KeysAndValues& given) const;
  Inputs bring_up(std::span<const float* const> frames);
  void make_digests(const cuda::SectionFormat& format, uint32_t sections);

  const CacheConfig& config_;
  CudaQueue& queue_;
  const CudaLayers& layers_;
  const size_t stride_;
  Space on_device_{};
  Space host_{};
  uint8_t* pages_ = nullptr;
};

}  // namespace quire
