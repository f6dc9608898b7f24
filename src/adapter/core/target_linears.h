#pragma once
// The linears of a base that take an adapter, and those of them that a configuration's targets name.

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moelora/nn/linear.h"

namespace moelora {

using NamedLinear = std::pair<std::string, std::shared_ptr<nn::LinearImpl>>;

/// The linears of `base` that the targets name, in the order of the module tree. Error naming every target that can't
/// be used: it matches nothing, only modules that accept no delta, or (also) a linear that refuses them.
std::vector<NamedLinear> find_targets(torch::nn::Module& base, const std::vector<std::string>& targets);

/// The names without repetition, numbers in them as `*` (which also is an expression that matches them), the first few,
/// or what to do if there is none.
std::string shown_linears(const std::vector<std::string>& linears);

}  // namespace moelora
