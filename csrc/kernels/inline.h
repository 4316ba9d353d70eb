// SEGEXT_INLINE marks what headers share between host and device, and between the instruction sets of the CPU.
//
// CPU kernels are compiled once per instruction set. The linker keeps one copy of an inline function, whichever unit it
// is from, and that of a unit for AVX-512 would end a process on a lesser processor. Functions that are always inlined
// leave no copy, so these units never share compiled code; all others that such units define lie in a namespace of the
// instruction set's name.
#pragma once

#if defined(__CUDACC__)
#define SEGEXT_INLINE __host__ __device__ __forceinline__
#else
#define SEGEXT_INLINE inline __attribute__((always_inline))
#endif
