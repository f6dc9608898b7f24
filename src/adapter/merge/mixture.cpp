#include "adapter/merge/mixture.h"

#include <ATen/ATen.h>

#include <charconv>
#include <cmath>
#include <set>

#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/io/finite.h"

namespace moelora {

namespace {

void check_finite(const AdapterImpl& adapter, const std::vector<nn::LowRank>& updates) {
  std::vector<at::Tensor> all;
  for (const nn::LowRank& update : updates) {
    all.insert(all.end(), {update.A, update.B});
  }
  if (io::all_finite(all)) {
    return;
  }
  for (std::size_t i = 0; i < updates.size(); ++i) {
    if (!io::all_finite({updates[i].A, updates[i].B})) {
      throw io::NotFinite(detail::concat("the update of ", adapter.linears()[i].name,
                                         " is not finite, so it can't be merged: its experts' weights or the ",
                                         "mixture's are too large"));
    }
  }
}

}  // namespace

// It is linear in B: A stays, B = Σ weight_t · s · B diag(g_t).
std::vector<nn::LowRank> mixed_updates(const AdapterImpl& adapter, const Mixture& mixture) {
  std::vector<std::int64_t> tasks;
  for (const auto& [task, weight] : mixture) {
    tasks.push_back(adapter.tasks().index(task));
  }
  const at::Tensor omega = adapter.expert_weights(single_tasks(tasks));  // [gates, tasks, N]
  std::vector<nn::LowRank> updates;
  for (const auto& linear : adapter.linears()) {
    nn::LowRank mixed;
    for (std::size_t t = 0; t < mixture.size(); ++t) {
      const auto row = omega.defined() ? omega.select(1, static_cast<std::int64_t>(t)) : at::Tensor();
      const nn::LowRank update = linear.delta->low_rank(row).update();
      const double weight = mixture[t].second;
      mixed.A = update.A;
      if (t == 0) {
        mixed.B = weight == 1.0 ? update.B : update.B * weight;
      } else {
        mixed.B = mixed.B + update.B * weight;
      }
    }
    updates.push_back(std::move(mixed));
  }
  check_finite(adapter, updates);
  return updates;
}

std::vector<std::pair<std::string, double>> parse_mixture(std::string_view text) {
  const auto trim = [](std::string_view part) {
    const auto first = part.find_first_not_of(" \t");
    return first == part.npos ? std::string_view() : part.substr(first, part.find_last_not_of(" \t") - first + 1);
  };
  Mixture mixture;
  std::set<std::string_view> seen;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    const auto part = trim(text.substr(begin, end - begin));
    const auto equals = part.rfind('=');
    const auto task = trim(part.substr(0, std::min(equals, part.size())));
    auto number = equals == part.npos ? std::string_view() : trim(part.substr(equals + 1));
    const auto check = [&](bool good, const std::string& problem) {
      MOELORA_CHECK(good, "expected a mixture like \"CMeIE=0.5,MedDG=0.5\", found '", part, "' in \"", text,
                    "\": ", problem);
    };
    check(!task.empty() && equals != part.npos, part.empty() ? "an empty part" : "expected TASK=WEIGHT");
    const std::string shown(number);
    if (number.size() > 1 && number.front() == '+' && number[1] != '-') {
      number.remove_prefix(1);
    }
    double weight = 0.0;
    const auto [stop, failure] = std::from_chars(number.data(), number.data() + number.size(), weight);
    check(failure != std::errc::result_out_of_range, "the weight " + shown + " is out of range");
    check(failure == std::errc() && stop == number.data() + number.size(), "the weight '" + shown + "' is no number");
    check(std::isfinite(weight), "the weight " + shown + " is not finite");
    check(seen.insert(task).second, "task '" + std::string(task) + "' comes twice; give it one weight");
    mixture.emplace_back(task, weight);
    begin = end + 1;
  }
  return mixture;
}

}  // namespace moelora
