#pragma once
// Runs an operator on device tensors by the CPU's, on the same memory.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace moelora::testing::pretend {

/// The memory of a device tensor as a CPU tensor; to be used while memory is unlocked.
at::Tensor on_host(const at::Tensor& x);

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack);

/// Makes each operator on lists of tensors one operator; once in a process.
void run_lists_at_once();

}  // namespace moelora::testing::pretend
