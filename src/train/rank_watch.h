#pragma once
// Which ranks still live, and the one text on which all agree when one does not.
//
// Two threads: one exchanges signs of life through the store, one checks them. They are apart because a call to the
// store can hang when its host does; that the first one is stuck is then what the second one goes by.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moelora::train {

/// Keys and values that all ranks see. Calls may throw, or never return, when the host is gone.
class RankStore {
 public:
  virtual ~RankStore() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  virtual std::vector<std::string> get(const std::vector<std::string>& keys) = 0;  ///< Keys that were set before.
  /// Sets a key whose value is empty; returns the value that holds then.
  virtual std::string set_if_empty(const std::string& key, const std::string& value) = 0;
};

struct RankWatchOptions {
  int rank = 0;
  int size = 1;
  bool hosts_store = false;                   ///< The store ends with this process.
  std::string store_host;                     ///< "rank 0 of 4"
  std::chrono::milliseconds silence{20000};   ///< After it a rank is lost.
  std::chrono::milliseconds suspicion{5000};  ///< The same once an exchange has failed.
  std::chrono::milliseconds beat{500};        ///< Between signs of life.
  std::chrono::milliseconds grace{10000};     ///< For the working thread to learn the failure, before on_lost.
  std::function<void(const std::string&)> on_lost;
};

class RankWatch {
 public:
  static std::string beat_key(int rank) { return "beat/" + std::to_string(rank); }
  static constexpr const char* kFailureKey = "failure";
  static constexpr const char* kFirstBeat = "0 0";  ///< Each rank's key holds it before any watch begins.

  /// The calling thread is the one whose computing counts as life. All beat keys and the failure's are in the store.
  RankWatch(std::shared_ptr<RankStore> store, const RankWatchOptions& options);
  /// Ends the threads, or leaves one that hangs in the store to itself.
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  /// While one lives, waiting counts as life.
  class Waiting {
   public:
    explicit Waiting(RankWatch& watch);
    ~Waiting();
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    RankWatch& watch_;
  };

  void set_step(std::int64_t step);
  void begin_files();  ///< Until end_files(), waiting counts as life and on_lost is not called.
  void end_files();

  /// The failure, or an empty text while all ranks live. Whoever has got it ends without on_lost.
  std::string failure();
  /// An exchange failed: waits for the failure that names who is lost; `otherwise` if that shows nobody.
  std::string failure_after_error(const std::string& otherwise);
  /// Reports a failure; returns the one that holds.
  std::string report_failure(const std::string& text);
  /// Waits until all ranks call it. Returns the failure if one is lost meanwhile.
  std::string shutdown_barrier();

 private:
  struct State;
  static void exchange(const std::shared_ptr<State>& state);
  static void check_ranks(const std::shared_ptr<State>& state);
  void wait_for_readers();

  std::shared_ptr<State> state_;
};

}  // namespace moelora::train
