#include "moelora/adapter/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "adapter/core/listed.h"
#include "moelora/adapter/config_fields.h"
#include "moelora/adapter/delta_kind.h"
#include "moelora/io/error.h"
#include "moelora/io/field_visitors.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/saved_names.h"
#include "moelora/log/log.h"

namespace moelora {
namespace {

/// The kind that the configuration names; null: there is none.
const DeltaKind* kind_of(const MoeLoraConfig& config) {
  const auto kinds = delta_kind_names();
  return std::find(kinds.begin(), kinds.end(), config.delta) == kinds.end() ? nullptr : &delta_kind(config.delta);
}

/// What is wrong with values, each as "key: expected …, found …".
class Problems {
 public:
  template <typename... Parts>
  void expect(bool holds, const Parts&... parts) {
    if (!holds) {
      all_.push_back(detail::concat(parts...));
    }
  }
  /// Far beyond any use: products of such sizes still fit into 64 bits. Memory is checked where it is taken.
  void expect_size(const char* key, std::int64_t value) {
    constexpr std::int64_t kLargest = std::int64_t{1} << 24;
    expect(value <= kLargest, key, ": expected at most ", kLargest, ", found ", value);
  }
  const std::vector<std::string>& all() const { return all_; }

 private:
  std::vector<std::string> all_;
};

void check_experts(const MoeLoraConfig& config, Problems& problems) {
  problems.expect_size("rank", config.rank);
  problems.expect_size("num_experts", config.num_experts);
  constexpr std::int64_t kMostSingle = 4096;  // a table [tasks, tasks] comes with it
  problems.expect(config.routing != Routing::single || config.num_experts <= kMostSingle,
                  "num_experts: expected at most ", kMostSingle, " with routing \"single\", found ",
                  config.num_experts);
  problems.expect(config.rank >= 1, "rank: expected at least 1, found ", config.rank);
  problems.expect(config.num_experts >= 1, "num_experts: expected at least 1, found ", config.num_experts);
  const DeltaKind* kind = kind_of(config);
  if (config.rank >= 1 && config.num_experts >= 1 && (kind == nullptr || kind->splits_rank)) {
    problems.expect(config.rank % config.num_experts == 0,
                    "rank: expected a multiple of num_experts (each expert has rank / ", "num_experts), found rank ",
                    config.rank, " for ", config.num_experts, " experts");
  }
  problems.expect(std::isfinite(config.alpha) && config.alpha > 0, "alpha: expected a positive number, found ",
                  config.alpha);
  problems.expect(config.dropout >= 0 && config.dropout < 1, "dropout: expected 0 <= dropout < 1, found ",
                  config.dropout);
}

void check_gate(const MoeLoraConfig& config, Problems& problems) {
  const GateConfig& gate = config.gate;
  problems.expect_size("task_embedding_dim", gate.task_embedding_dim);
  problems.expect_size("reserved_rows", gate.reserved_rows);
  problems.expect(gate.top_k >= 0, "top_k: expected 0 (dense) or the number of experts to keep, found ", gate.top_k);
  problems.expect(gate.top_k <= config.num_experts, "top_k: expected at most num_experts (", config.num_experts,
                  "), found ", gate.top_k);
  if (config.routing != Routing::task) {
    const auto& name = routing_name(config.routing);
    problems.expect(gate.top_k == 0, "top_k: ", name, " routing has no gate to choose experts with; set top_k to 0 or ",
                    "routing to \"task\"");
    problems.expect(!gate.per_linear, "per_linear: ", name, " routing has no task gates; set per_linear to false or ",
                    "routing to \"task\"");
  }
  problems.expect(gate.task_embedding_dim >= 1, "task_embedding_dim: expected at least 1, found ",
                  gate.task_embedding_dim);
  problems.expect(gate.reserved_rows >= 0, "reserved_rows: expected 0 or more, found ", gate.reserved_rows);
}

void check_router(const MoeLoraConfig& config, Problems& problems) {
  const double balance_loss = config.router.balance_loss;
  problems.expect(config.routing != Routing::token || config.num_experts > 1,
                  "routing: \"token\" chooses among experts; found num_experts ", config.num_experts,
                  ", expected 2 or more");
  problems.expect(std::isfinite(balance_loss) && balance_loss >= 0, "balance_loss: expected 0 (off) or more, found ",
                  balance_loss);
  problems.expect(balance_loss == 0 || config.routing == Routing::token,
                  "balance_loss: only token routing has one; set it to 0 or routing to \"token\"");
}

void check_table(const MoeLoraConfig& config, Problems& problems) {
  problems.expect((config.routing == Routing::table) == !config.table.empty(),
                  "table: expected with routing \"table\", and only there; found ", config.table.size(), " rows");
  problems.expect(config.routing != Routing::table || config.num_experts > 1,
                  "table: weights of several experts; found num_experts 1, whose weight is always 1");
  for (const auto& row : config.table) {
    problems.expect(static_cast<std::int64_t>(row.size()) == config.num_experts,
                    "table: expected num_experts = ", config.num_experts, " numbers in each row, found ", row.size());
    problems.expect(std::all_of(row.begin(), row.end(), [](double weight) { return std::isfinite(weight); }),
                    "table: expected finite numbers");
  }
}

void check_prefix(const PrefixConfig& prefix, Problems& problems) {
  problems.expect_size("prefix.length", prefix.length);
  problems.expect(prefix.length >= 1, "prefix.length: expected at least 1 for a prefix, found ", prefix.length);
  problems.expect(prefix.dropout >= 0 && prefix.dropout < 1, "prefix.dropout: expected 0 <= dropout < 1, found ",
                  prefix.dropout);
}

void check_names(const MoeLoraConfig& config, Problems& problems) {
  constexpr std::size_t kMostTargets = 10000;
  problems.expect(config.targets.size() <= kMostTargets, "targets: expected at most ", kMostTargets, ", found ",
                  config.targets.size(), "; a regular expression can name many linears at once");
  problems.expect(!config.targets.empty() || config.prefix,
                  "targets: expected at least one name or pattern (or a prefix), found none");
  std::set<std::string> seen;
  for (const auto& target : config.targets) {
    problems.expect(!target.empty(), "targets: an empty pattern");
    problems.expect(seen.insert(target).second, "targets: '", target, "' is listed twice");
  }
  seen.clear();
  for (const auto& module : config.modules_to_save) {
    problems.expect(!module.empty(), "modules_to_save: an empty name");
    problems.expect(seen.insert(module).second, "modules_to_save: '", module, "' is listed twice");
  }
  const DeltaKind* kind = kind_of(config);
  problems.expect(kind != nullptr, "delta: expected one of ", io::in_a_row(delta_kind_names()), ", found '",
                  config.delta, "'");
  if (kind != nullptr && kind->problem) {
    const std::string problem = kind->problem(config);
    problems.expect(problem.empty(), problem);
  }
}

}  // namespace

void MoeLoraConfig::validate() const {
  Problems problems;
  check_experts(*this, problems);
  check_gate(*this, problems);
  check_router(*this, problems);
  check_table(*this, problems);
  check_names(*this, problems);
  if (prefix) {
    check_prefix(*prefix, problems);
  }
  if (!problems.all().empty()) {
    throw Error("the adapter's configuration is not usable:" + listed(problems.all()));
  }
  if (routing == Routing::task && gate.top_k == 1 && num_experts > 1) {
    log::warning(
        "top_k is 1: the one chosen expert always has weight 1, so the gate gets no gradient and stays as it is");
  }
}

MoeLoraConfig MoeLoraConfig::from_json(const nlohmann::ordered_json& json) {
  MoeLoraConfig config;
  io::JsonReader reader(json, "adapter");
  io::FieldReader visitor(reader);
  fields(visitor, config);
  reader.finish();
  config.validate();
  return config;
}

nlohmann::ordered_json MoeLoraConfig::to_json() const {
  MoeLoraConfig config = *this;  // visitors may write
  io::FieldWriter writer;
  fields(writer, config);
  return writer.take();
}

}  // namespace moelora
