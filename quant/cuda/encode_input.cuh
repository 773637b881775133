// Unfolded values where an engine has them (EncodeInput), as encoders read them: of three types, at strides
// of the caller's. Four neighbouring channels come by one access where their place allows that.
#pragma once

#include "quant/cuda/gpu.h"
#include "quant/cuda/launch.h"

namespace quire::cuda {

// What is read at a time, one element or four of them, and what that is in f32, exactly.
struct F32Input {
  using One = float;
  using Four = float4;
  __device__ __forceinline__ static float wide(float x) { return x; }
  __device__ __forceinline__ static float4 wide(float4 x) { return x; }
};

struct Bf16Input {
  using One = uint16_t;
  using Four = uint2;
  __device__ __forceinline__ static float wide(uint16_t x) { return __uint_as_float(uint32_t{x} << 16); }
  __device__ __forceinline__ static float4 wide(uint2 x) {
    return make_float4(__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xFFFF0000U),
                       __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xFFFF0000U));
  }
};

struct F16Input {
  using One = uint16_t;
  using Four = uint2;
  __device__ __forceinline__ static float wide(uint32_t x) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(x)));
  }
  __device__ __forceinline__ static float4 wide(uint2 x) {
    return make_float4(wide(x.x), wide(x.x >> 16), wide(x.y), wide(x.y >> 16));
  }
};

// Rows of one type. kFours: every fourth channel is aligned to four elements.
template <typename Input, bool kFours>
struct TypedRows {
  const typename Input::One* first;
  size_t token_stride;

  __device__ __forceinline__ float one(uint32_t token, uint32_t channel) const {
    return Input::wide(first[token * token_stride + channel]);
  }
  // channel: a multiple of four.
  __device__ __forceinline__ float4 four(uint32_t token, uint32_t channel) const {
    const auto* at = first + token * token_stride + channel;
    if constexpr (kFours) {
      return Input::wide(load_as<typename Input::Four>(at));
    } else {
      return make_float4(Input::wide(at[0]), Input::wide(at[1]), Input::wide(at[2]), Input::wide(at[3]));
    }
  }
};

// One side of a section, in global or, of f32, in shared memory.
struct InputRows {
  const void* first;
  size_t token_stride;
  InputType type;

  // body(rows) with the TypedRows that these are.
  template <bool kFours, typename Body>
  __device__ __forceinline__ auto typed(Body body) const {
    switch (type) {
      case InputType::kF32:
        return body(rows_of<F32Input, kFours>());
      case InputType::kBf16:
        return body(rows_of<Bf16Input, kFours>());
      default:
        return body(rows_of<F16Input, kFours>());
    }
  }
  template <typename Input, bool kFours>
  __device__ __forceinline__ TypedRows<Input, kFours> rows_of() const {
    return {static_cast<const typename Input::One*>(first), token_stride};
  }
  // The same where what is read four at a time may be aligned.
  template <typename Body>
  __device__ __forceinline__ void with_fours(Body body) const {
    const size_t four = 4 * input_bytes(type);
    const bool aligned = reinterpret_cast<uintptr_t>(first) % four == 0 && token_stride % 4 == 0;
    aligned ? typed<true>(body) : typed<false>(body);
  }
  __device__ __forceinline__ float operator()(uint32_t token, uint32_t channel) const {
    return typed<false>([=](auto rows) { return rows.one(token, channel); });
  }
};

__host__ __device__ __forceinline__ const EncodeInput& input_of(const EncodeArgs& args, bool is_key) {
  return is_key ? args.keys : args.values;
}

// Of the block's section.
__device__ __forceinline__ InputRows input_rows(const EncodeInput& input) {
  const uint32_t page = blockIdx.x / input.heads;
  const uint32_t head = blockIdx.x % input.heads;
  const size_t at = page * input.page_stride + head * input.head_stride;
  return {static_cast<const uint8_t*>(input.data) + at * input_bytes(input.type), input.token_stride,
          input.type};
}

}  // namespace quire::cuda
