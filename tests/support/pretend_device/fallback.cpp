#include "support/pretend_device/fallback.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/resize.h>
#include <c10/util/StringUtil.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "support/pretend_device/counting.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::testing::pretend {
namespace {

using c10::IValue;
using torch::jit::Stack;

bool on_device(const at::Tensor& x) { return x.defined() && x.device().is_privateuseone(); }

bool takes_cpu_indices(const std::string& name) {
  return name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_" ||
         name == "aten::index_put";
}

/// Whose kernels on CUDA wait for the device, to know the size of a result or whether it is allowed.
bool waits(const std::string& name, const IValue* arguments, std::size_t count) {
  static const std::set<std::string> always{"aten::nonzero",     "aten::masked_select", "aten::equal",
                                            "aten::unique_dim",  "aten::_unique2",      "aten::unique_consecutive",
                                            "aten::multinomial", "aten::bincount",      "aten::repeat_interleave",
                                            "aten::linalg_eigh", "aten::histc"};
  if (name == "aten::repeat_interleave" && count > 1 && arguments[count - 1].isInt()) {
    return false;  // output_size is given
  }
  if (always.count(name) > 0) {
    return true;
  }
  // A mask becomes indices; aten::index does that by an operator of its own, which is counted there.
  for (std::size_t i = 0; takes_cpu_indices(name) && name != "aten::index" && i < count; ++i) {
    for (const auto& index : arguments[i].isOptionalTensorList() ? arguments[i].toOptionalTensorVector()
                                                                 : std::vector<std::optional<at::Tensor>>{}) {
      if (index && index->defined() && (index->scalar_type() == at::kBool || index->scalar_type() == at::kByte)) {
        return true;
      }
    }
  }
  return false;
}

class Arguments {
 public:
  Arguments(const c10::OperatorHandle& op, Stack* stack) : op_(op), count_(op.schema().arguments().size()) {
    const auto last = torch::jit::last(*stack, count_);
    values_.assign(last.begin(), last.end());
  }
  const IValue* values() const { return values_.data(); }
  std::size_t count() const { return count_; }

  template <typename F>
  void for_each_tensor(const F& f) const {
    for (std::size_t i = 0; i < count_; ++i) {
      if (values_[i].isTensor()) {
        f(values_[i].toTensor(), i);
      } else if (values_[i].isTensorList()) {
        for (const at::Tensor& x : values_[i].toTensorVector()) f(x, i);
      } else if (values_[i].isOptionalTensorList()) {
        for (const auto& x : values_[i].toOptionalTensorVector()) f(x.value_or(at::Tensor()), i);
      }
    }
  }

  /// As CUDA's operators check them.
  void check_devices() const {
    const auto& arguments = op_.schema().arguments();
    bool device = false, host_generator = false;
    std::string host;
    for_each_tensor([&](const at::Tensor& x, std::size_t i) {
      device |= on_device(x);
      const bool is_index = values_[i].isOptionalTensorList() && takes_cpu_indices(op_.schema().name());
      if (x.defined() && x.is_cpu() && x.dim() > 0 && !is_index) {
        host += " " + arguments[i].name() + c10::str(x.sizes());
      }
    });
    for (const IValue& value : values_) {
      host_generator |= value.isGenerator() && value.toGenerator().defined() && value.toGenerator().device().is_cpu();
    }
    TORCH_CHECK(!(device && !host.empty()), "pretend device: expected all tensors of ", op_.schema().operator_name(),
                " on one device, but found on the CPU:", host);
    TORCH_CHECK(!(device && host_generator), "pretend device: ", op_.schema().operator_name(),
                " got a CPU generator for tensors on the device");
  }

  /// The same arguments for the CPU. Outputs that the operator may have to resize (empty `out` tensors) get memory of
  /// their own, which finish() brings to the device.
  Stack for_cpu() {
    Stack stack;
    const auto& arguments = op_.schema().arguments();
    for (std::size_t i = 0; i < count_; ++i) {
      const IValue& value = values_[i];
      const bool out = arguments[i].is_out() && arguments[i].alias_info() && arguments[i].alias_info()->isWrite();
      if (value.isTensor()) {
        stack.emplace_back(alias(value.toTensor(), out));
      } else if (value.isTensorList()) {
        std::vector<at::Tensor> list;
        for (const at::Tensor& x : value.toTensorVector()) list.push_back(alias(x, out));
        stack.emplace_back(std::move(list));
      } else if (value.isOptionalTensorList()) {
        c10::List<std::optional<at::Tensor>> list;
        for (const auto& x : value.toOptionalTensorVector()) {
          list.push_back(x ? std::optional<at::Tensor>(alias(*x, false)) : std::nullopt);
        }
        stack.emplace_back(std::move(list));
      } else if (value.isDevice()) {
        stack.emplace_back(c10::Device(c10::kCPU));
      } else {
        stack.push_back(value);
      }
    }
    return stack;
  }

  /// What the CPU's operator returned, on the device.
  at::Tensor to_device(const at::Tensor& x) {
    if (!x.defined() || on_device(x)) {
      return x;
    }
    for (const auto& [host, device] : aliases_) {
      if (host.is_same(x)) {
        return device;
      }
    }
    at::Tensor result = at::empty_like(x, x.options().device(c10::kPrivateUse1));
    on_host(result).copy_(x);
    return result;
  }

  void finish() {
    for (const auto& [host, device] : resized_) {
      device.resize_(host.sizes());
      on_host(device).copy_(host);
    }
  }

  bool any_on_device() const {
    bool any = false;
    for_each_tensor([&](const at::Tensor& x, std::size_t) { any |= on_device(x); });
    for (const IValue& value : values_) any |= value.isDevice() && value.toDevice().is_privateuseone();
    return any;
  }

 private:
  at::Tensor alias(const at::Tensor& x, bool may_resize) {
    if (!on_device(x)) {
      return x;
    }
    at::Tensor host = may_resize && x.numel() == 0 ? at::empty({0}, x.options().device(at::kCPU)) : on_host(x);
    aliases_.emplace_back(host, x);
    if (may_resize && x.numel() == 0) {
      resized_.emplace_back(host, x);
    }
    return host;
  }

  const c10::OperatorHandle& op_;
  std::size_t count_;
  std::vector<IValue> values_;
  std::vector<std::pair<at::Tensor, at::Tensor>> aliases_, resized_;
};

}  // namespace

at::Tensor on_host(const at::Tensor& x) {
  if (!on_device(x)) {
    return x;
  }
  return at::from_blob(
      const_cast<void*>(x.const_data_ptr()), x.sizes(), x.strides(), [](void*) {},
      x.options().device(at::kCPU).requires_grad(false));
}

void run_on_cpu(const c10::OperatorHandle& op, Stack* stack) {
  Arguments arguments(op, stack);
  const std::string& name = op.schema().name();
  if (!inside_launch()) {
    arguments.check_devices();
    if (waits(name, arguments.values(), arguments.count())) {
      count_wait(name);
    }
  }
  const bool on_device_at_all = arguments.any_on_device();
  const Launch launch(c10::toString(op.schema().operator_name()));
  const at::NoGradGuard no_grad;
  Stack cpu = arguments.for_cpu();
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &cpu);
  const auto& returns = op.schema().returns();
  for (std::size_t i = 0; i < cpu.size() && on_device_at_all; ++i) {
    TORCH_CHECK(returns[i].alias_info() == nullptr || returns[i].alias_info()->isWrite(), "pretend device: ", name,
                " is a view and needs an implementation of its own");
    if (cpu[i].isTensor()) {
      cpu[i] = arguments.to_device(cpu[i].toTensor());
    } else if (cpu[i].isTensorList()) {
      std::vector<at::Tensor> list;
      for (const at::Tensor& x : cpu[i].toTensorVector()) list.push_back(arguments.to_device(x));
      cpu[i] = std::move(list);
    }
  }
  arguments.finish();
  torch::jit::drop(*stack, arguments.count());
  for (IValue& value : cpu) {
    stack->push_back(std::move(value));
  }
}

}  // namespace moelora::testing::pretend
