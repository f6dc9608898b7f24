#include "nn/kernels/cpu/isa/operations.h"
#include "nn/kernels/cpu/isa/tables.h"

#define MOELORA_TEXT_OF(name) #name
#define MOELORA_TEXT(name) MOELORA_TEXT_OF(name)

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

CpuKernels filled() {
  CpuKernels table{};
  table.name = MOELORA_TEXT(MOELORA_ISA);
  enter_few_rows(table);
  enter_decode_attention(table);
  enter_fold(table);
  enter_dropout(table);
  enter_layer_norm(table);
  enter_rms_norm(table);
  enter_swiglu(table);
  enter_gelu(table);
  enter_attention(table);
  enter_rotary(table);
  return table;
}

}  // namespace

const CpuKernels& table() {
  static const CpuKernels kTable = filled();
  return kTable;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
