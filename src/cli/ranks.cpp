#include "cli/ranks.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "moelora/log/log.h"
#include "moelora/nn/device.h"

namespace moelora::cli {
namespace {

constexpr int kRankLost = 1;

// Threads of the process group may hang in the network: nothing is torn down, the process just ends.
[[noreturn]] void end_program(const std::string& verb, const std::string& text) {
  std::cout.flush();
  std::fprintf(stderr, "\nmoelora %s: error: %s\n", verb.c_str(), text.c_str());
  std::fflush(nullptr);
  std::_Exit(kRankLost);
}

// Processes on one machine share its cores, unless the user or the launcher has decided.
void share_cores(const train::ProcessGroup& ranks) {
  if (std::getenv("OMP_NUM_THREADS") == nullptr && ranks.place().local_size > 1) {
    at::set_num_threads(std::max(1, at::get_num_threads() / ranks.place().local_size));
  }
}

}  // namespace

int run_with_ranks(const std::string& verb, const std::function<int(train::ProcessGroup* ranks)>& work) {
  std::unique_ptr<train::ProcessGroup> ranks;
  try {
    ranks = train::ProcessGroup::from_environment([verb](const std::string& text) { end_program(verb, text); });
    if (!ranks) {
      return work(nullptr);
    }
    share_cores(*ranks);
    if (!ranks->is_first()) {
      log::set_level(log::Level::warning);
    }
    const int status = work(ranks.get());
    ranks->finish();
    return status;
  } catch (const train::RankLost& error) {
    const std::string text = error.what();
    ranks.reset();  // waits until the others know too
    end_program(verb, text);
  } catch (const std::exception& error) {
    if (ranks) {
      const std::string text = error.what();
      ranks->abandon(text.substr(0, text.find('\n')));
    }
    throw;
  }
}

std::string device_of_rank(const std::string& device, const train::ProcessGroup* ranks) {
  const bool any = device == "auto" || device == "cuda";
  return ranks != nullptr && any && nn::device_problem(at::kCUDA).empty()
             ? "cuda:" + std::to_string(ranks->place().local_rank)
             : device;
}

}  // namespace moelora::cli
