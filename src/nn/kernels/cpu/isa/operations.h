#pragma once
// What each file of this folder enters into the table of the instruction set that it is compiled for; MOELORA_ISA names
// the set and its namespace.
//
// Everything in these files stands in that namespace, functions in an unnamed one inside it, and no inline function of
// the standard library or of LibTorch is called: its code, compiled for a newer processor, could be linked into the
// rest of the program.

namespace moelora::nn::kernels {

struct CpuKernels;

namespace MOELORA_ISA {

void enter_few_rows(CpuKernels& table);
void enter_decode_attention(CpuKernels& table);
void enter_fold(CpuKernels& table);
void enter_dropout(CpuKernels& table);
void enter_layer_norm(CpuKernels& table);
void enter_rms_norm(CpuKernels& table);
void enter_swiglu(CpuKernels& table);
void enter_gelu(CpuKernels& table);
void enter_attention(CpuKernels& table);
void enter_rotary(CpuKernels& table);

}  // namespace MOELORA_ISA
}  // namespace moelora::nn::kernels
