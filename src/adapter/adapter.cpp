#include "moelora/adapter/adapter.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "moelora/io/error.h"

namespace moelora {
namespace {

// Parameter names may not contain dots inside one module's name.
std::string module_key(std::string name) {
  std::replace(name.begin(), name.end(), '.', '/');
  return name;
}

}  // namespace

AdapterImpl::AdapterImpl(std::string name, const MoeLoraConfig& config, TaskNames tasks,
                         std::vector<AdaptedLinear> linears, PrefixEncoder prefix_encoder)
    : torch::nn::Module("Adapter"),
      name_(std::move(name)),
      config_(config),
      tasks_(std::move(tasks)),
      linears_(std::move(linears)),
      prefix_encoder_(std::move(prefix_encoder)) {
  MOELORA_CHECK(!linears_.empty() || prefix_encoder_, "expected an adapter with linears or a prefix, found neither");
  for (AdaptedLinear& linear : linears_) {
    register_module(module_key(linear.name), linear.delta);
  }
  if (prefix_encoder_) {
    register_module("prefix", prefix_encoder_);
  }
  fixed_weights_ = fixed_expert_weights(config_, tasks_.size());
  if (config_.routing == Routing::task && config_.num_experts > 1 && !linears_.empty()) {
    const std::size_t count = config_.per_linear ? linears_.size() : 1;
    for (std::size_t i = 0; i < count; ++i) {
      gates_.emplace_back(config_, tasks_.size());
      register_module(config_.per_linear ? "gate/" + module_key(linears_[i].name) : "gate", gates_.back());
    }
  }
}

AdapterImpl::~AdapterImpl() = default;

at::Device AdapterImpl::device() const {
  return linears_.empty() ? prefix_encoder_->embedding.device() : linears_.front().delta->A.device();
}

at::Tensor AdapterImpl::expert_weights(const TaskIds& tasks) const {
  return expert_weights(tasks, static_cast<std::int64_t>(tasks.size()));
}

at::Tensor AdapterImpl::expert_weights(const TaskIds& tasks, std::int64_t sequences) const {
  const auto experts = config_.num_experts;
  if (config_.routing == Routing::token) {
    return {};  // a matter of each linear and token
  }
  if (fixed_weights_.defined()) {
    return at::mm(task_shares(tasks, tasks_.size()).to(fixed_weights_.device()), fixed_weights_).unsqueeze(0);
  }
  if (gates_.empty()) {
    return at::full({1, sequences, experts}, 1.0 / static_cast<double>(experts),
                    at::TensorOptions(at::kFloat).device(device()));
  }
  MOELORA_CHECK(static_cast<std::int64_t>(tasks.size()) == sequences, "expected the task of each of ", sequences,
                " sequences, found ", tasks.size());
  if (gates_.size() == 1) {
    return gates_.front()->forward(tasks).unsqueeze(0);
  }
  std::vector<at::Tensor> weights;
  weights.reserve(gates_.size());
  for (const TaskGate& gate : gates_) {
    weights.push_back(gate->forward(tasks));
  }
  return at::stack(weights);
}

std::vector<std::vector<float>> AdapterImpl::expert_weights_by_task() const {
  std::vector<std::vector<float>> by_task;
  if (gates_.empty()) {
    return by_task;
  }
  at::NoGradGuard no_grad;
  for (std::int64_t task = 0; task < tasks_.size(); ++task) {
    const at::Tensor weights =
        expert_weights(single_tasks({task})).mean(0).to(at::kCPU, at::kFloat).contiguous();  // [1, N]
    const float* row = weights.const_data_ptr<float>();
    by_task.emplace_back(row, row + weights.numel());
  }
  return by_task;
}

nn::RowContext AdapterImpl::context(const nn::Segments& segments, const TaskIds& tasks, nn::DropoutKey dropout) const {
  MOELORA_CHECK(!dropout.active() || static_cast<std::int64_t>(dropout.draws.size()) == segments.count(),
                "dropout needs the draw index of each of ", segments.count(), " samples, found ", dropout.draws.size());
  nn::RowContext context = nn::RowContext::plain(segments, device());
  if ((config_.num_experts > 1 || fixed_weights_.defined()) && !linears_.empty()) {
    context.expert_weights = expert_weights(tasks, segments.count());
  }
  if (prefix_encoder_ && enabled()) {
    context.prefix = prefix_encoder_->forward(dropout);
  }
  context.dropout = std::move(dropout);
  return context;
}

void AdapterImpl::set_table(std::vector<std::vector<double>> table) {
  MOELORA_CHECK(config_.routing == Routing::table, "only an adapter with routing \"table\" has a table of weights; '",
                name_, "' has routing \"", routing_name(config_.routing), "\"");
  MoeLoraConfig changed = config_;
  changed.table = std::move(table);
  changed.validate();
  fixed_weights_ = fixed_expert_weights(changed, tasks_.size()).to(device());
  config_ = std::move(changed);
}

void AdapterImpl::enable() {
  MOELORA_CHECK(merge_ == nullptr, "adapter '", name_,
                "' is merged into the base, so enabling it would apply it twice; call unmerge() first");
  for (AdaptedLinear& linear : linears_) {
    MOELORA_CHECK(linear.base->merged_adapter.empty(), "adapter '", linear.base->merged_adapter,
                  "' is merged into the base; unmerge it before adapter '", name_, "' is enabled");
  }
  for (AdaptedLinear& linear : linears_) {
    linear.base->activate(name_);
  }
  switched_on_ = true;
}

void AdapterImpl::disable() {
  for (AdaptedLinear& linear : linears_) {
    if (linear.base->active() == name_) {
      linear.base->activate("");
    }
  }
  switched_on_ = false;
}

bool AdapterImpl::enabled() const {
  return switched_on_ && std::all_of(linears_.begin(), linears_.end(),
                                     [&](const AdaptedLinear& linear) { return linear.base->active() == name_; });
}

}  // namespace moelora
