// Chooses the instruction set of a translation unit. Included by every *-inl.h of this folder.
//
// A translation unit defines QUIRE_SIMD_AVX512, QUIRE_SIMD_AVX2 or QUIRE_SIMD_NEON and is compiled WITHOUT
// -mavx* or -march flags: the code between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE carries target
// attributes of its own. An inline function of the standard library or of a shared header that the compiler
// emits out of line is thus always baseline code, and the linker may keep any copy of it. With flags per file
// it could keep one that faults on older machines. All own code lies in quire::HWY_NAMESPACE, which differs
// between instruction sets.
//
// Highway's dispatch is not used: its AVX3 lacks VNNI and VBMI, and its AVX3_DL (release 1.0.3) demands
// AVX-VNNI, which the Zen 4 does not have. So this header takes AVX3 and adds the two extensions. Its NEON
// lacks the dot product and demands the AES instructions, which the Cortex-A76 need not have; it is taken as
// baseline code, and the attributes of this project's own code name the dot product.
//
// A unit that defines QUIRE_SIMD_AVX_VNNI beside QUIRE_SIMD_AVX2, or QUIRE_SIMD_AMX beside QUIRE_SIMD_AVX512,
// holds what differs from that set, in a namespace of its own, and takes the rest from its table.
#pragma once

#include <hwy/detect_targets.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#undef HWY_TARGET
#if defined(QUIRE_SIMD_AVX512)
#define HWY_TARGET HWY_AVX3
#elif defined(QUIRE_SIMD_AVX2)
#define HWY_TARGET HWY_AVX2
#elif defined(QUIRE_SIMD_NEON)
#define HWY_TARGET HWY_NEON
#undef HWY_HAVE_RUNTIME_DISPATCH
#define HWY_HAVE_RUNTIME_DISPATCH 0  // leaves out Highway's target attributes
#else
#error "define one of the QUIRE_SIMD_* before the first include"
#endif
#include <hwy/highway.h>
#if defined(QUIRE_SIMD_NEON)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#if defined(QUIRE_SIMD_AVX_VNNI)
#undef HWY_TARGET_STR
#define HWY_TARGET_STR HWY_TARGET_STR_AVX2 ",avxvnni"
namespace hwy::N_AVX_VNNI {
using namespace hwy::N_AVX2;
}
#undef HWY_NAMESPACE
#define HWY_NAMESPACE N_AVX_VNNI
#elif defined(QUIRE_SIMD_AVX512)
#undef HWY_TARGET_STR
#define HWY_TARGET_STR HWY_TARGET_STR_AVX3 ",avx512vbmi,avx512vnni"
#if defined(QUIRE_SIMD_AMX)
namespace hwy::N_AMX {
using namespace hwy::N_AVX3;
}
#undef HWY_NAMESPACE
#define HWY_NAMESPACE N_AMX
#endif
#elif defined(QUIRE_SIMD_NEON)
#undef HWY_BEFORE_NAMESPACE
#undef HWY_AFTER_NAMESPACE
#define HWY_BEFORE_NAMESPACE() \
  HWY_PUSH_ATTRIBUTES("arch=armv8.2-a+dotprod") static_assert(true, "for the semicolon")
#define HWY_AFTER_NAMESPACE() HWY_POP_ATTRIBUTES static_assert(true, "for the semicolon")
#endif
