#pragma once
// modules_to_save (PEFT's name): modules of the base that are trained whole and travel with the adapter, such as a new
// classification head. They stay where they are in the base. While the adapter is enabled or merged they hold the
// trained values, otherwise the base's own, so a disabled or ejected adapter leaves the base as it was.

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace moelora {

/// A name of modules_to_save or of fingerprint's `without` stands for `module` itself or is its suffix at a
/// name-component boundary.
bool names_module(std::string_view name, std::string_view module);

/// Children are the base's modules, so parameters() are the base's own tensors.
class SavedModulesImpl : public torch::nn::Module {
 public:
  /// Takes every module of `base` that a name stands for (the outermost, where one lies in another); buffers travel
  /// too. `adapted`: names of the adapter's linears. Error: a name that stands for no module or for one without
  /// parameters; a module that holds an adapted linear, shares parameters with another one, has parameters that are not
  /// float32, or travels with another adapter.
  SavedModulesImpl(torch::nn::Module& base, const std::vector<std::string>& names,
                   const std::vector<std::string>& adapted, std::string adapter);
  ~SavedModulesImpl() override;
  void pretty_print(std::ostream& stream) const override;

  struct Value {
    std::string name;      ///< In the base, e.g. "head.weight"
    at::Tensor in_base;    ///< The base's parameter or buffer.
    at::Tensor elsewhere;  ///< The base's own values while the trained ones are in the base, else the trained ones.
    bool is_parameter = true;
    bool requires_grad = true;  ///< While the trained values are in the base.
  };
  const std::vector<Value>& values() const { return values_; }
  at::Tensor trained(const Value& value) const { return in_base_ ? value.in_base : value.elsewhere; }

  /// Puts the trained values (true) or the base's own into the base.
  void put(bool trained);
  bool in_base() const { return in_base_; }
  /// The modules are free for another adapter. The base has its own values, the trained ones stay here.
  void release();

 private:
  std::string adapter_;
  std::vector<Value> values_;
  bool in_base_ = false;
  bool claimed_ = false;
};
TORCH_MODULE(SavedModules);

/// Error naming an adapter whose trained modules are in `base` at present: another adapter would take them for the
/// base's own.
void require_no_saved_modules(const torch::nn::Module& base);

}  // namespace moelora
