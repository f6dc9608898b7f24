#include "train/rank_watch.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "moelora/io/error.h"

namespace moelora::train {
namespace {

using WatchClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kDone = "done";

// A sign of life is "BEATS STEP".
std::string step_of_beat(const std::string& beat) { return beat.substr(beat.find(' ') + 1); }

}  // namespace

struct RankWatch::State {
  State(std::shared_ptr<RankStore> with, const RankWatchOptions& chosen)
      : store(std::move(with)),
        options(chosen),
        beats(static_cast<std::size_t>(chosen.size), kFirstBeat),
        changed(beats.size(), WatchClock::now()),
        last_round(WatchClock::now()) {
    pthread_getcpuclockid(pthread_self(), &clock);
  }

  std::string name_of(int rank) const { return detail::concat("rank ", rank, " of ", options.size); }

  /// Waits on `changes` for a beat, or until the threads end.
  bool pause(std::unique_lock<std::mutex>& lock, milliseconds time) {
    changes.wait_for(lock, time, [this] { return stop; });
    return !stop;
  }

  std::string own_beat() {  // locked
    if (shutting_down) {
      return kDone;
    }
    timespec now{};
    clock_gettime(clock, &now);
    const std::int64_t used = static_cast<std::int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
    if (waiting > 0 || used != cpu_used) {
      ++beat;
    }
    cpu_used = used;
    return detail::concat(beat, " ", step);
  }

  /// Who has been silent for too long, by what the last round showed; empty: nobody.
  std::string silent_ranks() const {  // locked
    const milliseconds limit = suspicious ? options.suspicion : options.silence;
    std::string names;
    std::string steps;
    if (WatchClock::now() - last_round > limit) {
      names = options.store_host;
      steps = std::to_string(step);
    } else {
      for (int rank = 0; rank < options.size; ++rank) {
        if (beats[rank] != kDone && last_round - changed[rank] > limit) {
          names += (names.empty() ? "" : ", ") + name_of(rank);
          steps += (steps.empty() ? "" : ", ") + step_of_beat(beats[rank]);
        }
      }
    }
    return names.empty() ? names
                         : detail::concat(names, " stopped answering (step ", steps,
                                          "): killed, hanging or cut off; the run can be resumed from its newest "
                                          "checkpoint");
  }

  void adopt(const std::string& text) {  // locked
    failure = text;
    failure_time = WatchClock::now();
    changes.notify_all();
  }

  std::shared_ptr<RankStore> store;
  RankWatchOptions options;
  clockid_t clock{};

  std::mutex mutex;
  std::condition_variable changes;
  bool stop = false;
  bool exchange_ended = false;
  int waiting = 0;
  int files = 0;
  std::int64_t step = 0;
  std::int64_t beat = 0;
  std::int64_t cpu_used = 0;
  bool suspicious = false;
  bool shutting_down = false;
  std::vector<std::string> beats;  // [size], of the last round
  std::vector<WatchClock::time_point> changed;
  WatchClock::time_point last_round;
  std::string reported_failure;  // to be put forward in the next round
  WatchClock::time_point reported_failure_time;
  std::string failure;
  WatchClock::time_point failure_time;
  bool failure_taken = false;

  std::thread exchanging;
  std::thread judging;
};

RankWatch::RankWatch(std::shared_ptr<RankStore> store, const RankWatchOptions& options)
    : state_(std::make_shared<State>(std::move(store), options)) {
  state_->exchanging = std::thread([state = state_] { exchange(state); });
  state_->judging = std::thread([state = state_] { check_ranks(state); });
}

RankWatch::~RankWatch() {
  wait_for_readers();
  {
    std::unique_lock lock(state_->mutex);
    state_->stop = true;
    state_->changes.notify_all();
    state_->changes.wait_for(lock, std::chrono::seconds(1), [this] { return state_->exchange_ended; });
  }
  state_->judging.join();
  if (state_->exchange_ended) {
    state_->exchanging.join();
  } else {
    state_->exchanging.detach();  // it hangs in the store; the state lives as long as it does
  }
}

void RankWatch::exchange(const std::shared_ptr<State>& state) {
  std::vector<std::string> keys;
  for (int rank = 0; rank < state->options.size; ++rank) {
    keys.push_back(beat_key(rank));
  }
  keys.emplace_back(kFailureKey);
  std::unique_lock lock(state->mutex);
  milliseconds pause{};
  do {
    pause = state->options.beat;
    const std::string beat = state->own_beat();
    const std::string reported_failure = state->reported_failure;
    lock.unlock();
    std::vector<std::string> values;
    try {
      state->store->set(beat_key(state->options.rank), beat);
      if (!reported_failure.empty()) {
        state->store->set_if_empty(kFailureKey, reported_failure);
      }
      values = state->store->get(keys);
    } catch (const std::exception&) {
      // No round; after enough time without one the checking thread reports the loss. LibTorch logs each failure at
      // length.
      pause = std::max(pause, state->options.suspicion / 2);
    }
    lock.lock();
    if (values.size() == keys.size()) {
      state->last_round = WatchClock::now();
      for (std::size_t rank = 0; rank + 1 < values.size(); ++rank) {
        if (values[rank] != state->beats[rank]) {
          state->beats[rank] = values[rank];
          state->changed[rank] = state->last_round;
        }
      }
      if (state->failure.empty() && !values.back().empty()) {
        state->adopt(values.back());
      }
      state->changes.notify_all();
    }
  } while (state->pause(lock, pause) && state->failure.empty());
  state->exchange_ended = true;
  state->changes.notify_all();
}

void RankWatch::check_ranks(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (state->pause(lock, state->options.beat / 4)) {
    const auto now = WatchClock::now();
    if (state->failure.empty()) {
      if (state->reported_failure.empty()) {
        state->reported_failure = state->silent_ranks();
        state->reported_failure_time = now;
      } else if (now - state->reported_failure_time > 4 * state->options.beat) {
        state->adopt(state->reported_failure);  // the store does not take it
      }
      continue;
    }
    const bool due = now - state->failure_time > state->options.grace;
    if (due && !state->failure_taken && state->files == 0 && state->options.on_lost) {
      state->failure_taken = true;
      const std::string text = state->failure;
      lock.unlock();
      state->options.on_lost(text);
      lock.lock();
    }
  }
}

/// A store that ends with this process stays until the others have read it.
void RankWatch::wait_for_readers() {
  std::unique_lock lock(state_->mutex);
  if (state_->options.hosts_store && !state_->failure.empty()) {
    const auto until = state_->failure_time + 4 * state_->options.beat;
    state_->changes.wait_until(lock, until, [this] { return state_->stop; });
  }
}

RankWatch::Waiting::Waiting(RankWatch& watch) : watch_(watch) {
  const std::lock_guard lock(watch_.state_->mutex);
  ++watch_.state_->waiting;
}

RankWatch::Waiting::~Waiting() {
  const std::lock_guard lock(watch_.state_->mutex);
  --watch_.state_->waiting;
}

void RankWatch::set_step(std::int64_t step) {
  const std::lock_guard lock(state_->mutex);
  state_->step = step;
}

void RankWatch::begin_files() {
  const std::lock_guard lock(state_->mutex);
  ++state_->files;
  ++state_->waiting;
}

void RankWatch::end_files() {
  const std::lock_guard lock(state_->mutex);
  --state_->files;
  --state_->waiting;
}

std::string RankWatch::failure() {
  const std::lock_guard lock(state_->mutex);
  state_->failure_taken = state_->failure_taken || !state_->failure.empty();
  return state_->failure;
}

std::string RankWatch::failure_after_error(const std::string& otherwise) {
  const Waiting waiting(*this);
  std::unique_lock lock(state_->mutex);
  state_->suspicious = true;
  const auto enough = state_->options.suspicion + 8 * state_->options.beat;
  const bool found = state_->changes.wait_for(lock, enough, [this] { return !state_->failure.empty(); });
  lock.unlock();
  return found ? failure() : report_failure(otherwise);
}

std::string RankWatch::report_failure(const std::string& text) {
  const Waiting waiting(*this);
  std::unique_lock lock(state_->mutex);
  if (state_->failure.empty()) {
    state_->reported_failure = text;
    state_->reported_failure_time = WatchClock::now();
    state_->changes.wait(lock, [this] { return !state_->failure.empty(); });  // the checking thread does it
  }
  state_->failure_taken = true;
  return state_->failure;
}

std::string RankWatch::shutdown_barrier() {
  const Waiting waiting(*this);
  std::unique_lock lock(state_->mutex);
  state_->shutting_down = true;
  const auto all_done = [this] {
    for (const std::string& beat : state_->beats) {
      if (beat != kDone) {
        return false;
      }
    }
    return true;
  };
  state_->changes.wait(lock, [&] { return all_done() || !state_->failure.empty(); });
  if (all_done()) {
    if (state_->options.hosts_store) {  // the others read it too
      state_->changes.wait_for(lock, 4 * state_->options.beat, [this] { return state_->stop; });
    }
    return {};
  }
  state_->failure_taken = true;
  return state_->failure;
}

}  // namespace moelora::train
