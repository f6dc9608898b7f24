#include "moelora/train/process_group.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <numeric>

#include "train/gloo.h"
#include "train/rank_watch.h"

namespace moelora::train {
namespace {

constexpr double kJoinFactor = 2.5;  // of the timeout: programs start less evenly than they run

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

class EnvironmentReader {
 public:
  int integer(const char* name, int least, std::optional<int> otherwise = std::nullopt) {
    const std::string text = variable(name);
    if (text.empty() && otherwise) {
      return *otherwise;
    }
    char* end = nullptr;
    errno = 0;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || errno != 0 || value < least || value > 65535) {
      problem(detail::concat(name, ": expected a whole number, ", least, " or more, found ",
                             text.empty() ? "nothing" : "'" + text + "'"));
      return least;
    }
    return static_cast<int>(value);
  }

  void problem(const std::string& text) { problems_ += "\n  " + text; }

  void finish() const {
    MOELORA_CHECK(problems_.empty(), "WORLD_SIZE is set, so this is one process of several, but:", problems_,
                  "\nstart it with torchrun or set these variables, or unset WORLD_SIZE for a single process");
  }

 private:
  std::string problems_;
};

// Writing to a rank that has just died must be an error, not the end of this process.
void ignore_broken_pipes() {
  struct sigaction present {};
  if (sigaction(SIGPIPE, nullptr, &present) == 0 && present.sa_handler == SIG_DFL) {
    std::signal(SIGPIPE, SIG_IGN);
  }
}

bool is_loopback(const std::string& address) { return address == "localhost" || address.starts_with("127."); }

}  // namespace

std::optional<RankPlace> place_from_environment() {
  if (variable("WORLD_SIZE").empty()) {
    return std::nullopt;
  }
  EnvironmentReader reader;
  RankPlace place;
  place.size = reader.integer("WORLD_SIZE", 1);
  if (place.size == 1) {
    reader.finish();
    return std::nullopt;
  }
  place.rank = reader.integer("RANK", 0);
  if (place.rank >= place.size) {
    reader.problem(detail::concat("RANK: expected less than WORLD_SIZE = ", place.size, ", found ", place.rank));
  }
  place.address = variable("MASTER_ADDR");
  if (place.address.empty()) {
    reader.problem("MASTER_ADDR: expected the address of rank 0's machine, found nothing");
  }
  place.port = reader.integer("MASTER_PORT", 1);
  const bool one_machine = is_loopback(place.address);
  place.local_rank = reader.integer("LOCAL_RANK", 0, one_machine ? place.rank : 0);
  place.local_size = reader.integer("LOCAL_WORLD_SIZE", 1, one_machine ? place.size : 1);
  place.timeout = reader.integer("MOELORA_RANK_TIMEOUT", 1, static_cast<int>(place.timeout));
  place.launcher_store = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
  place.attempt = variable("TORCHELASTIC_RESTART_COUNT");
  reader.finish();
  return place;
}

struct ProcessGroup::Links {
  std::unique_ptr<Gloo> gloo;
  std::unique_ptr<RankWatch> watch;
  std::int64_t step = 0;
  bool ended = false;  // finished, abandoned, or another rank is lost
};

bool ProcessGroup::available() { return Gloo::available(); }

std::unique_ptr<ProcessGroup> ProcessGroup::from_environment(OnLost on_lost) {
  const std::optional<RankPlace> place = place_from_environment();
  return place ? std::make_unique<ProcessGroup>(*place, std::move(on_lost)) : nullptr;
}

ProcessGroup::ProcessGroup(const RankPlace& place, OnLost on_lost) : place_(place), links_(std::make_unique<Links>()) {
  MOELORA_CHECK(available(), "WORLD_SIZE is ", place.size,
                ", but this build has no process groups: install gloo's headers (Debian: libgloo-dev) and configure "
                "again, or unset WORLD_SIZE for a single process");
  ignore_broken_pipes();
  const auto milliseconds = [](double seconds) {
    return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
  };
  links_->gloo = Gloo::join(place, milliseconds(kJoinFactor * place.timeout));
  RankWatchOptions options;
  options.rank = place.rank;
  options.size = place.size;
  options.hosts_store = place.rank == 0 && !place.launcher_store;
  options.store_host = place.launcher_store ? "the launcher's store" : detail::concat("rank 0 of ", place.size);
  options.silence = milliseconds(place.timeout);
  options.suspicion = milliseconds(place.timeout / 4);
  options.beat = std::min(options.beat, milliseconds(place.timeout / 16));
  options.grace = milliseconds(place.timeout / 2);
  options.on_lost = std::move(on_lost);
  links_->watch = std::make_unique<RankWatch>(links_->gloo->rank_store(), options);
  const RankWatch::Waiting waiting(*links_->watch);
  try {
    links_->gloo->connect(milliseconds(kJoinFactor * place.timeout));
  } catch (const std::exception& error) {
    lost(error.what());
  }
}

ProcessGroup::~ProcessGroup() {
  if (!links_->ended) {
    abandon("it left its work");
  }
}

void ProcessGroup::lost(const std::string& cause) {
  links_->ended = true;
  const std::string failure = links_->watch->failure_after_error(detail::concat(
      "the connection between the ranks broke (rank ", place_.rank, ", step ", links_->step, "): ", cause));
  links_->gloo->abandon();
  throw RankLost(failure);
}

void ProcessGroup::sum(const at::Tensor& values) {
  const at::NoGradGuard no_grad;
  if (links_->gloo->sums_on(values.device())) {
    links_->gloo->sum_on_device(values);
    return;
  }
  const at::Tensor local = values.to(at::kCPU);
  {
    const RankWatch::Waiting waiting(*links_->watch);
    links_->gloo->begin_sum(local);
    while (true) {
      std::string broken;
      if (links_->gloo->wait(std::chrono::seconds(1), broken)) {
        break;
      }
      const std::string failure = links_->watch->failure();
      if (!failure.empty()) {
        links_->ended = true;
        links_->gloo->abandon();
        throw RankLost(failure);
      }
      if (!broken.empty()) {
        lost(broken);
      }
    }
  }
  if (!values.is_cpu()) {
    values.copy_(local);
  }
}

std::vector<std::string> ProcessGroup::gather(const std::string& text) {
  const auto ranks = static_cast<std::size_t>(size());
  const at::Tensor sizes = at::zeros({size()}, at::kLong);
  sizes.mutable_data_ptr<std::int64_t>()[rank()] = static_cast<std::int64_t>(text.size());
  sum(sizes);
  const std::int64_t* size_of = sizes.const_data_ptr<std::int64_t>();
  const at::Tensor bytes = at::zeros({std::accumulate(size_of, size_of + ranks, std::int64_t{0})}, at::kByte);
  auto* all = static_cast<char*>(bytes.mutable_data_ptr());
  std::copy(text.begin(), text.end(), all + std::accumulate(size_of, size_of + rank(), std::int64_t{0}));
  sum(bytes);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < ranks; ++i) {
    texts.emplace_back(all, static_cast<std::size_t>(size_of[i]));
    all += size_of[i];
  }
  return texts;
}

void ProcessGroup::barrier() { sum(at::zeros({1})); }

void ProcessGroup::set_step(std::int64_t step) {
  links_->step = step;
  links_->watch->set_step(step);
}

void ProcessGroup::abandon(const std::string& why) {
  if (!links_->ended) {
    links_->ended = true;
    links_->watch->report_failure(
        detail::concat("rank ", rank(), " of ", size(), " ended with an error (step ", links_->step, "): ", why));
  }
}

void ProcessGroup::finish() {
  const std::string failure = links_->watch->shutdown_barrier();
  links_->ended = true;
  if (!failure.empty()) {
    links_->gloo->abandon();
    throw RankLost(failure);
  }
}

ProcessGroup::FileSection::FileSection(ProcessGroup* group) : group_(group) {
  if (group_ != nullptr) {
    group_->links_->watch->begin_files();
  }
}

ProcessGroup::FileSection::~FileSection() {
  if (group_ != nullptr) {
    group_->links_->watch->end_files();
  }
}

}  // namespace moelora::train
