#include "train/rank_watch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "moelora/io/error.h"

namespace moelora::train {
namespace {

using std::chrono::milliseconds;

class MemoryStore : public RankStore {
 public:
  explicit MemoryStore(int ranks) {
    for (int rank = 0; rank < ranks; ++rank) {
      values_[RankWatch::beat_key(rank)] = RankWatch::kFirstBeat;
    }
    values_[RankWatch::kFailureKey] = "";
  }
  void set(const std::string& key, const std::string& value) override {
    const std::lock_guard lock(here());
    values_.at(key) = value;
  }
  std::vector<std::string> get(const std::vector<std::string>& keys) override {
    const std::lock_guard lock(here());
    std::vector<std::string> values;
    for (const std::string& key : keys) values.push_back(values_.at(key));
    return values;
  }
  std::string set_if_empty(const std::string& key, const std::string& value) override {
    const std::lock_guard lock(here());
    std::string& present = values_.at(key);
    return present = present.empty() ? value : present;
  }

  std::atomic<bool> gone = false;   // every call fails
  std::atomic<bool> hangs = false;  // every call waits until it is over

 private:
  std::mutex& here() {
    while (hangs) std::this_thread::sleep_for(milliseconds(5));
    MOELORA_CHECK(!gone, "the store is gone");
    return mutex_;
  }
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
};

RankWatchOptions quick(int rank, int size) {
  RankWatchOptions options;
  options.rank = rank;
  options.size = size;
  options.hosts_store = rank == 0;
  options.store_host = detail::concat("rank 0 of ", size);
  options.silence = milliseconds(1200);
  options.suspicion = milliseconds(200);
  options.beat = milliseconds(20);
  options.grace = milliseconds(100);
  return options;
}

std::string wait_for_failure(RankWatch& watch) {
  for (int i = 0; i < 1000; ++i) {
    std::string failure = watch.failure();
    if (!failure.empty()) return failure;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return {};
}

TEST(RankWatch, NamesTheSilentRankAndItsStepOnAllOthers) {
  auto store = std::make_shared<MemoryStore>(3);
  RankWatch zero(store, quick(0, 3));
  RankWatch one(store, quick(1, 3));
  const RankWatch::Waiting zero_waits(zero);
  const RankWatch::Waiting one_waits(one);
  {
    RankWatch two(store, quick(2, 3));
    two.set_step(17);
    const RankWatch::Waiting waits(two);
    std::this_thread::sleep_for(milliseconds(1500));  // longer than the silence that counts
    EXPECT_EQ(zero.failure(), "");
  }
  const std::string failure = wait_for_failure(zero);
  EXPECT_EQ(failure.substr(0, 46), "rank 2 of 3 stopped answering (step 17): kille");
  EXPECT_EQ(wait_for_failure(one), failure);
}

TEST(RankWatch, AThreadThatNeitherComputesNorWaitsIsHanging) {
  auto store = std::make_shared<MemoryStore>(2);
  RankWatch zero(store, quick(0, 2));
  const RankWatch::Waiting waits(zero);
  std::mutex mutex;
  std::condition_variable changed;
  bool over = false;
  std::thread hanging([&] {
    RankWatch one(store, quick(1, 2));
    one.set_step(3);
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return over; });
  });
  EXPECT_NE(wait_for_failure(zero).find("rank 1 of 2 stopped answering (step 3)"), std::string::npos);
  {
    const std::lock_guard lock(mutex);
    over = true;
  }
  changed.notify_all();
  hanging.join();
}

TEST(RankWatch, ComputingCountsAsLife) {
  auto store = std::make_shared<MemoryStore>(2);
  RankWatch zero(store, quick(0, 2));
  const RankWatch::Waiting waits(zero);
  std::thread computing([&] {
    const RankWatch one(store, quick(1, 2));
    volatile double sum = 0.0;
    for (const auto until = std::chrono::steady_clock::now() + milliseconds(1600);
         std::chrono::steady_clock::now() < until;) {
      sum = sum + 1.0;
    }
  });
  computing.join();
  EXPECT_EQ(zero.failure(), "");
}

TEST(RankWatch, AStoreThatIsGoneOrHangsIsItsHostsEnd) {
  for (const bool hangs : {false, true}) {
    auto store = std::make_shared<MemoryStore>(2);
    RankWatch one(store, quick(1, 2));
    one.set_step(5);
    const RankWatch::Waiting waits(one);
    (hangs ? store->hangs : store->gone) = true;
    EXPECT_EQ(one.failure_after_error("broken").substr(0, 38), "rank 0 of 2 stopped answering (step 5)");
    store->hangs = false;
  }
}

TEST(RankWatch, TheFirstReportedFailureHolds) {
  auto store = std::make_shared<MemoryStore>(3);
  RankWatch zero(store, quick(0, 3));
  RankWatch one(store, quick(1, 3));
  RankWatch two(store, quick(2, 3));
  EXPECT_EQ(two.report_failure("rank 2 is out of memory"), "rank 2 is out of memory");
  EXPECT_EQ(one.report_failure("the connection broke"), "rank 2 is out of memory");
  EXPECT_EQ(zero.failure_after_error("the connection broke"), "rank 2 is out of memory");
}

TEST(RankWatch, AFailureThatShowsNobodyKeepsItsOwnText) {
  auto store = std::make_shared<MemoryStore>(2);
  RankWatch zero(store, quick(0, 2));
  RankWatch one(store, quick(1, 2));
  const RankWatch::Waiting waits(one);
  EXPECT_EQ(zero.failure_after_error("the connection broke"), "the connection broke");
  EXPECT_EQ(wait_for_failure(one), "the connection broke");
}

TEST(RankWatch, ShutdownBarrierWaitsForAll) {
  auto store = std::make_shared<MemoryStore>(2);
  std::atomic<bool> late = false;
  std::thread first([&] {
    RankWatch zero(store, quick(0, 2));
    EXPECT_EQ(zero.shutdown_barrier(), "");
    EXPECT_TRUE(late);
  });
  RankWatch one(store, quick(1, 2));
  {
    const RankWatch::Waiting busy(one);
    std::this_thread::sleep_for(milliseconds(200));
  }
  late = true;
  EXPECT_EQ(one.shutdown_barrier(), "");
  first.join();
}

TEST(RankWatch, WhoeverIsBusyIsEndedButNotWhileItWritesFiles) {
  auto store = std::make_shared<MemoryStore>(2);
  RankWatchOptions options = quick(0, 2);
  std::mutex mutex;
  std::string told;
  options.on_lost = [&](const std::string& text) {
    const std::lock_guard lock(mutex);
    told = text;
  };
  const auto text_told = [&] {
    const std::lock_guard lock(mutex);
    return told;
  };
  RankWatch zero(store, options);
  RankWatch one(store, quick(1, 2));
  zero.begin_files();
  EXPECT_EQ(one.report_failure("rank 1 gave up"), "rank 1 gave up");
  std::this_thread::sleep_for(milliseconds(400));
  EXPECT_EQ(text_told(), "");
  zero.end_files();
  std::this_thread::sleep_for(milliseconds(400));
  EXPECT_EQ(text_told(), "rank 1 gave up");
}

}  // namespace
}  // namespace moelora::train
