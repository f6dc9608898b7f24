#pragma once
// How far a run is, on stderr: one line that is rewritten when stderr is a terminal, else a plain line now and then.

#include <chrono>
#include <cstdint>
#include <string>

namespace moelora::train {

class Progress {
 public:
  /// Steps first_step … total are to come. `lines_every`: steps between plain lines. Quiet: nothing is written.
  Progress(std::int64_t first_step, std::int64_t total, std::int64_t lines_every, bool quiet = false);
  ~Progress();

  /// After a step. `tokens`: rows computed in it.
  void update(std::int64_t step, double loss, double learning_rate, std::int64_t tokens);
  void clear();  ///< Wipes the rewritten line, before something else is written.

 private:
  using Clock = std::chrono::steady_clock;
  std::int64_t first_step_;
  std::int64_t total_;
  std::int64_t lines_every_;
  bool quiet_;
  bool terminal_;
  bool line_shown_ = false;
  std::int64_t tokens_ = 0;
  Clock::time_point begin_;
  Clock::time_point last_shown_;
};

/// "step 120/300 [████····] loss 1.2345 lr 1.80e-04 12.3k tokens/s ETA 1m20s"; without the bar if bar_width is 0.
std::string progress_text(std::int64_t step, std::int64_t total, double loss, double learning_rate,
                          double tokens_per_second, double seconds_left, int bar_width);

}  // namespace moelora::train
