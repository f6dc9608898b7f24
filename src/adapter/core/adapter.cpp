#include "moelora/adapter/adapter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <ostream>

#include "moelora/io/error.h"
#include "moelora/io/readable.h"
#include "moelora/log/log.h"
#include "nn/move_together.h"

namespace moelora {
namespace {

// Parameter names may not contain dots inside one module's name.
std::string module_key(std::string name) {
  std::replace(name.begin(), name.end(), '.', '/');
  return name;
}

std::uint64_t next_identity() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
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
  identity_ = std::make_shared<nn::AdapterIdentity>();
  identity_->id = next_identity();
  identity_->name = name_;
  identity_->tasks = tasks_.names();
  for (AdaptedLinear& linear : linears_) {
    linear.delta->adapter = identity_;
    register_module(module_key(linear.name), linear.delta);
  }
  if (prefix_encoder_) {
    register_module("prefix", prefix_encoder_);
  }
  fixed_weights_ = fixed_expert_weights(config_, tasks_.size());
  if (config_.routing == Routing::task && config_.num_experts > 1 && !linears_.empty()) {
    const std::size_t count = config_.gate.per_linear ? linears_.size() : 1;
    for (std::size_t i = 0; i < count; ++i) {
      gates_.emplace_back(config_.gate, config_.num_experts, tasks_.size());
      register_module(config_.gate.per_linear ? "gate/" + module_key(linears_[i].name) : "gate", gates_.back());
    }
  }
  identity_->tasks_differ = fixed_weights_.defined() || !gates_.empty();
}

AdapterImpl::~AdapterImpl() { identity_->modules_in_base = false; }

void AdapterImpl::pretty_print(std::ostream& stream) const {
  std::int64_t trained = 0;
  for (const at::Tensor& parameter : parameters()) {
    trained += parameter.requires_grad() ? parameter.numel() : 0;
  }
  stream << "moelora::Adapter(name=" << name_ << ", routing=" << routing_name(config_.routing)
         << ", rank=" << config_.rank << ", experts=" << config_.num_experts << ", alpha=" << config_.alpha
         << ", dropout=" << config_.dropout << ", tasks=" << tasks_.size() << ", linears=" << linears_.size();
  if (prefix_encoder_) {
    stream << ", prefix=" << config_.prefix->length;
  }
  if (saved_modules_) {
    stream << ", modules to save=" << saved_modules_->children().size();
  }
  stream << ", trainable parameters=" << io::with_commas(trained) << ")";
}

at::Device AdapterImpl::device() const {
  return linears_.empty() ? prefix_encoder_->embedding.device() : linears_.front().delta->device();
}

at::Tensor AdapterImpl::expert_weights(const TaskIds& tasks) const {
  return expert_weights(tasks, static_cast<std::int64_t>(tasks.size()));
}

at::Tensor AdapterImpl::expert_weights(const TaskIds& tasks, std::int64_t sequences) const {
  at::Tensor shares = shares_of(tasks, sequences);
  nn::move_together({&shares}, device());
  return expert_weights_of(shares, sequences);
}

at::Tensor AdapterImpl::shares_of(const TaskIds& tasks, std::int64_t sequences) const {
  if (!fixed_weights_.defined() && gates_.empty()) {
    return {};
  }
  MOELORA_CHECK(fixed_weights_.defined() || static_cast<std::int64_t>(tasks.size()) == sequences,
                "expected the task of each of ", sequences, " sequences, found ", tasks.size());
  const at::Tensor shares = task_shares(tasks, tasks_.size());
  return fixed_weights_.defined() ? at::mm(shares, fixed_weights_) : shares;
}

at::Tensor AdapterImpl::expert_weights_of(const at::Tensor& shares, std::int64_t sequences) const {
  const auto experts = config_.num_experts;
  if (config_.routing == Routing::token) {
    return {};  // a matter of each linear and token
  }
  if (fixed_weights_.defined()) {
    return shares.unsqueeze(0);
  }
  if (gates_.empty()) {
    return at::full({1, sequences, experts}, 1.0 / static_cast<double>(experts),
                    at::TensorOptions(at::kFloat).device(device()));
  }
  if (gates_.size() == 1) {
    return gates_.front()->weights_of_shares(shares).unsqueeze(0);
  }
  std::vector<at::Tensor> weights;
  weights.reserve(gates_.size());
  for (const TaskGate& gate : gates_) {
    weights.push_back(gate->weights_of_shares(shares));
  }
  return at::stack(weights);
}

std::vector<std::vector<float>> AdapterImpl::expert_weights_by_task() const {
  std::vector<std::vector<float>> by_task;
  if (gates_.empty()) {
    return by_task;
  }
  const at::Tensor weights = mean_expert_weights().to(at::kCPU, at::kFloat).contiguous();
  for (std::int64_t task = 0; task < tasks_.size(); ++task) {
    const float* row = weights.const_data_ptr<float>() + task * weights.size(1);
    by_task.emplace_back(row, row + weights.size(1));
  }
  return by_task;
}

at::Tensor AdapterImpl::mean_expert_weights() const {
  if (gates_.empty()) {
    return {};
  }
  at::NoGradGuard no_grad;
  std::vector<std::int64_t> all(static_cast<std::size_t>(tasks_.size()));
  std::iota(all.begin(), all.end(), 0);
  if (!device().is_cpu()) {
    return expert_weights(single_tasks(all)).mean(0);
  }
  std::vector<at::Tensor> rows;  // each by itself: the numbers of logs do not depend on how many tasks there are
  for (const std::int64_t task : all) {
    rows.push_back(expert_weights(single_tasks({task})).mean(0));
  }
  return at::cat(rows);
}

bool AdapterImpl::has_dropout() const {
  return (config_.dropout > 0.0 && !linears_.empty()) || (config_.prefix && config_.prefix->dropout > 0.0);
}

nn::RowContext AdapterImpl::context(const nn::Segments& segments, const TaskIds& tasks, nn::DropoutKey dropout,
                                    std::vector<at::Tensor*> along) const {
  MOELORA_CHECK(!dropout.active() || static_cast<std::int64_t>(dropout.draws.size()) == segments.count(),
                "dropout needs the draw index of each of ", segments.count(), " samples, found ", dropout.draws.size());
  if (!is_training()) {
    dropout = {};
  } else if (!dropout.active() && has_dropout() && merge_ == nullptr && at::GradMode::is_enabled() &&
             !warned_of_dropout_.exchange(true)) {
    log::warning("adapter '" + name_ +
                 "' has dropout and is in train mode, but its context was made without a key, so nothing is dropped; "
                 "pass nn::DropoutKey::for_step(seed, step, batch) to context(), or call eval() on the adapter");
  }
  const bool mixes = (config_.num_experts > 1 || fixed_weights_.defined()) && !linears_.empty();
  at::Tensor shares = mixes ? shares_of(tasks, segments.count()) : at::Tensor();
  along.push_back(&shares);
  nn::RowContext context = nn::RowContext::plain(segments, device(), dropout, along);
  if (mixes) {
    context.expert_weights = expert_weights_of(shares, segments.count());
  }
  auto origin = std::make_shared<nn::ContextOrigin>();
  origin->adapter = identity_;
  for (const auto& own : tasks) {
    origin->tasks.insert(origin->tasks.end(), own.begin(), own.end());
  }
  std::sort(origin->tasks.begin(), origin->tasks.end());
  origin->tasks.erase(std::unique(origin->tasks.begin(), origin->tasks.end()), origin->tasks.end());
  origin->require_merged_alike();
  context.origin = std::move(origin);
  if (prefix_encoder_ && enabled()) {
    context.set_prefix(prefix_encoder_->forward(dropout));
  }
  return context;
}

void AdapterImpl::set_table(std::vector<std::vector<double>> table) {
  MOELORA_CHECK(config_.routing == Routing::table, "only an adapter with routing \"table\" has a table of weights; '",
                name_, "' has routing \"", routing_name(config_.routing), "\"");
  MoeLoraConfig changed = config_;
  changed.table = std::move(table);
  changed.validate();
  fixed_weights_ = fixed_expert_weights(changed, tasks_.size());
  config_ = std::move(changed);
}

void AdapterImpl::enable() {
  MOELORA_CHECK(merge_ == nullptr, "adapter '", name_,
                "' is merged into the base, so enabling it would apply it twice; call unmerge() first");
  for (AdaptedLinear& linear : linears_) {
    MOELORA_CHECK(linear.base->merged_adapter.empty(), "adapter '", linear.base->merged_adapter,
                  "' is merged into the base; unmerge it before adapter '", name_, "' is enabled");
    const auto* other = linear.base->active_delta();
    MOELORA_CHECK(other == nullptr || other->adapter == nullptr || other->adapter == identity_ ||
                      !other->adapter->modules_in_base,
                  "adapter '", linear.base->active(), "' is active on ", linear.name,
                  " and has trained modules in the base (modules_to_save); disable() it before adapter '", name_,
                  "' is enabled");
  }
  for (AdaptedLinear& linear : linears_) {
    linear.base->activate(name_);
  }
  switched_on_ = true;
  update_saved_modules();
}

void AdapterImpl::disable() {
  for (AdaptedLinear& linear : linears_) {
    if (linear.base->active() == name_) {
      linear.base->activate("");
    }
  }
  switched_on_ = false;
  update_saved_modules();
}

bool AdapterImpl::enabled() const {
  return switched_on_ && std::all_of(linears_.begin(), linears_.end(),
                                     [&](const AdaptedLinear& linear) { return linear.base->active() == name_; });
}

void AdapterImpl::set_merge_state(std::shared_ptr<MergeState> state, const std::string& merged, std::int64_t task) {
  merge_ = std::move(state);
  identity_->merged = merge_ != nullptr ? merged : "";
  identity_->merged_task = merge_ != nullptr ? task : -1;
  update_saved_modules();
}

void AdapterImpl::save_modules(SavedModules modules) {
  TORCH_INTERNAL_ASSERT(!saved_modules_);
  saved_modules_ = register_module("modules_to_save", std::move(modules));
  update_saved_modules();
}

void AdapterImpl::release_modules() {
  if (saved_modules_) {
    saved_modules_->release();
    unregister_module("modules_to_save");
    identity_->modules_in_base = false;
  }
}

void AdapterImpl::update_saved_modules() {
  if (saved_modules_) {
    saved_modules_->put(switched_on_ || merge_ != nullptr);
    identity_->modules_in_base = saved_modules_->in_base();
  }
}

nn::ContextMaker for_tasks(Adapter adapter, TaskIds tasks) {
  return [adapter = std::move(adapter), tasks = std::move(tasks)](const nn::Segments& segments) {
    return adapter->context(segments, tasks);
  };
}

nn::ContextMaker for_task(Adapter adapter, std::string_view task) {
  const std::int64_t index = adapter->tasks().index(task);
  return [adapter = std::move(adapter), index](const nn::Segments& segments) {
    return adapter->context(segments,
                            single_tasks(std::vector<std::int64_t>(static_cast<std::size_t>(segments.count()), index)));
  };
}

}  // namespace moelora
