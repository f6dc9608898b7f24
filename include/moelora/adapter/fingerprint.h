#pragma once
// The fingerprint of a base, which adapter files carry so that they are not loaded on another one.

#include <torch/nn/module.h>

#include <string>
#include <vector>

namespace moelora {

/// SHA-256 over the sorted (name, shape, values as fp32) of a module's parameters and buffers: the same for fp32, fp16
/// and bf16 forms of the same values, and on every device. An adapter registered somewhere in the module is left out,
/// and so are the modules named by `without` (as in MoeLoraConfig::modules_to_save, which belong to the adapter: pass
/// that list for a base whose saved modules start from random values). Take it while no adapter is merged.
std::string fingerprint(const torch::nn::Module& base, const std::vector<std::string>& without = {});

}  // namespace moelora
