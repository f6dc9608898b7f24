#include "moelora/adapter/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "adapter/formats/adapter_loading.h"
#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"
#include "moelora/log/log.h"

namespace moelora {
namespace {

const std::vector<std::string>& routing_names() {
  static const std::vector<std::string> names{"task", "uniform", "token", "single",
                                              "table"};  // in the order of enum Routing
  return names;
}

/// Everything that is wrong with the values, each as "key: expected …, found …".
std::vector<std::string> config_problems(const MoeLoraConfig& config) {
  std::vector<std::string> problems;
  const auto expect = [&](bool holds, auto&&... parts) {
    if (!holds) {
      problems.push_back(detail::concat(parts...));
    }
  };
  // Far beyond any use: products of such sizes still fit into 64 bits. Memory is checked where it is taken.
  constexpr std::int64_t kLargest = std::int64_t{1} << 24;
  for (const auto& [key, value] : {std::pair<const char*, std::int64_t>{"rank", config.rank},
                                   {"num_experts", config.num_experts},
                                   {"task_embedding_dim", config.task_embedding_dim},
                                   {"reserved_rows", config.reserved_rows},
                                   {"prefix.length", config.prefix.length}}) {
    expect(value <= kLargest, key, ": expected at most ", kLargest, ", found ", value);
  }
  constexpr std::size_t kMostTargets = 10000;
  expect(config.targets.size() <= kMostTargets, "targets: expected at most ", kMostTargets, ", found ",
         config.targets.size(), "; a regular expression can name many linears at once");
  constexpr std::int64_t kMostSingle = 4096;  // a table [tasks, tasks] comes with it
  expect(config.routing != Routing::single || config.num_experts <= kMostSingle, "num_experts: expected at most ",
         kMostSingle, " with routing \"single\", found ", config.num_experts);
  expect(config.rank >= 1, "rank: expected at least 1, found ", config.rank);
  expect(config.num_experts >= 1, "num_experts: expected at least 1, found ", config.num_experts);
  if (config.rank >= 1 && config.num_experts >= 1) {
    expect(config.rank % config.num_experts == 0, "rank: expected a multiple of num_experts (each expert has rank / ",
           "num_experts), found rank ", config.rank, " for ", config.num_experts, " experts");
  }
  expect(std::isfinite(config.alpha) && config.alpha > 0, "alpha: expected a positive number, found ", config.alpha);
  expect(config.dropout >= 0 && config.dropout < 1, "dropout: expected 0 <= dropout < 1, found ", config.dropout);
  expect(config.top_k >= 0, "top_k: expected 0 (dense) or the number of experts to keep, found ", config.top_k);
  expect(config.top_k <= config.num_experts, "top_k: expected at most num_experts (", config.num_experts, "), found ",
         config.top_k);
  if (config.routing != Routing::task) {
    const auto& name = routing_name(config.routing);
    expect(config.top_k == 0, "top_k: ", name, " routing has no gate to choose experts with; set top_k to 0 or ",
           "routing to \"task\"");
    expect(!config.per_linear, "per_linear: ", name, " routing has no task gates; set per_linear to false or ",
           "routing to \"task\"");
  }
  expect(config.routing != Routing::token || config.num_experts > 1, "routing: \"token\" chooses among experts; found ",
         "num_experts ", config.num_experts, ", expected 2 or more");
  expect(std::isfinite(config.balance_loss) && config.balance_loss >= 0,
         "balance_loss: expected 0 (off) or more, found ", config.balance_loss);
  expect(config.balance_loss == 0 || config.routing == Routing::token, "balance_loss: only token routing has one; set ",
         "it to 0 or routing to \"token\"");
  expect((config.routing == Routing::table) == !config.table.empty(),
         "table: expected with routing \"table\", and only ", "there; found ", config.table.size(), " rows");
  expect(config.routing != Routing::table || config.num_experts > 1, "table: weights of several experts; found ",
         "num_experts 1, whose weight is always 1");
  for (const auto& row : config.table) {
    expect(static_cast<std::int64_t>(row.size()) == config.num_experts,
           "table: expected num_experts = ", config.num_experts, " numbers in each row, found ", row.size());
    expect(std::all_of(row.begin(), row.end(), [](double weight) { return std::isfinite(weight); }),
           "table: expected finite numbers");
  }
  expect(config.task_embedding_dim >= 1, "task_embedding_dim: expected at least 1, found ", config.task_embedding_dim);
  expect(config.reserved_rows >= 0, "reserved_rows: expected 0 or more, found ", config.reserved_rows);
  expect(!config.targets.empty() || config.prefix.length > 0,
         "targets: expected at least one name or pattern (or a prefix), found none");
  expect(config.prefix.length >= 0, "prefix.length: expected 0 (none) or the number of positions, found ",
         config.prefix.length);
  expect(config.prefix.dropout >= 0 && config.prefix.dropout < 1, "prefix.dropout: expected 0 <= dropout < 1, found ",
         config.prefix.dropout);
  expect(config.prefix.length != 0 || (!config.prefix.projection && config.prefix.dropout == 0),
         "prefix.length: expected at least 1 for a prefix with projection or dropout, found 0");
  std::set<std::string> seen;
  for (const auto& target : config.targets) {
    expect(!target.empty(), "targets: an empty pattern");
    expect(seen.insert(target).second, "targets: '", target, "' is listed twice");
  }
  seen.clear();
  for (const auto& module : config.modules_to_save) {
    expect(!module.empty(), "modules_to_save: an empty name");
    expect(seen.insert(module).second, "modules_to_save: '", module, "' is listed twice");
  }
  return problems;
}

}  // namespace

const std::string& routing_name(Routing routing) { return routing_names().at(static_cast<std::size_t>(routing)); }

void MoeLoraConfig::validate() const {
  const auto problems = config_problems(*this);
  if (!problems.empty()) {
    throw Error("the adapter's configuration is not usable:" + listed(problems));
  }
  if (routing == Routing::task && top_k == 1 && num_experts > 1) {
    log::warning(
        "top_k is 1: the one chosen expert always has weight 1, so the gate gets no gradient and stays as it is");
  }
}

MoeLoraConfig MoeLoraConfig::from_json(const nlohmann::ordered_json& json) {
  MoeLoraConfig config;
  io::JsonReader reader(json, "adapter");
  reader.read("rank", config.rank);
  reader.read("num_experts", config.num_experts);
  reader.read("alpha", config.alpha);
  reader.read("dropout", config.dropout);
  std::size_t routing = 0;
  if (reader.read_choice("routing", routing_names(), routing)) {
    config.routing = static_cast<Routing>(routing);
  }
  reader.read("top_k", config.top_k);
  reader.read("per_linear", config.per_linear);
  reader.read("table", config.table);
  reader.read("balance_loss", config.balance_loss);
  reader.read("task_embedding_dim", config.task_embedding_dim);
  reader.read("reserved_rows", config.reserved_rows);
  reader.read("targets", config.targets);
  reader.read("modules_to_save", config.modules_to_save);
  reader.read("seed", config.seed);
  io::JsonReader prefix = reader.child("prefix");
  prefix.read("length", config.prefix.length);
  prefix.read("projection", config.prefix.projection);
  prefix.read("dropout", config.prefix.dropout);
  reader.finish();
  config.validate();
  return config;
}

nlohmann::ordered_json MoeLoraConfig::to_json() const {
  nlohmann::ordered_json json{{"rank", rank},
                              {"num_experts", num_experts},
                              {"alpha", alpha},
                              {"dropout", dropout},
                              {"routing", routing_name(routing)},
                              {"top_k", top_k},
                              {"per_linear", per_linear},
                              {"task_embedding_dim", task_embedding_dim},
                              {"reserved_rows", reserved_rows},
                              {"targets", targets},
                              {"seed", seed}};
  if (routing == Routing::table) {
    json["table"] = table;
  }
  if (routing == Routing::token) {
    json["balance_loss"] = balance_loss;
  }
  if (!modules_to_save.empty()) {
    json["modules_to_save"] = modules_to_save;
  }
  if (prefix.length > 0) {
    json["prefix"] = {{"length", prefix.length}, {"projection", prefix.projection}, {"dropout", prefix.dropout}};
  }
  return json;
}

}  // namespace moelora
