#include "moelora/train/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "moelora/io/readable.h"

namespace moelora::train {
namespace {

constexpr int kBarWidth = 24;
constexpr double kSecondsBetweenRewrites = 0.1;

template <typename... Values>
std::string formatted(const char* format, Values... values) {
  char text[128];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

}  // namespace

std::string progress_text(std::int64_t step, std::int64_t total, double loss, double learning_rate,
                          double tokens_per_second, double seconds_left, int bar_width) {
  std::string text = formatted("step %lld/%lld", static_cast<long long>(step), static_cast<long long>(total));
  if (bar_width > 0) {
    const auto full = static_cast<int>(bar_width * step / std::max<std::int64_t>(1, total));
    text += " [";
    for (int i = 0; i < bar_width; ++i) {
      text += i < full ? "█" : "·";
    }
    text += "]";
  }
  text += formatted(" loss %.4f lr %.2e ", loss, learning_rate);
  text += tokens_per_second < 1000 ? formatted("%.0f tokens/s", tokens_per_second)
                                   : formatted("%.1fk tokens/s", tokens_per_second / 1000);
  return text + " ETA " + io::duration_text(seconds_left);
}

Progress::Progress(std::int64_t first_step, std::int64_t total, std::int64_t lines_every, bool quiet)
    : first_step_(first_step),
      total_(total),
      lines_every_(lines_every),
      quiet_(quiet),
      terminal_(::isatty(STDERR_FILENO) == 1),
      begin_(Clock::now()) {}

Progress::~Progress() {
  if (line_shown_) {
    std::fputc('\n', stderr);
  }
}

void Progress::update(std::int64_t step, double loss, double learning_rate, std::int64_t tokens) {
  tokens_ += tokens;
  const Clock::time_point now = Clock::now();
  const bool due = terminal_ ? std::chrono::duration<double>(now - last_shown_).count() > kSecondsBetweenRewrites
                             : step % lines_every_ == 0;
  if (quiet_ || !(due || step == total_)) {
    return;
  }
  last_shown_ = now;
  const double seconds = std::max(1e-9, std::chrono::duration<double>(now - begin_).count());
  const auto done = static_cast<double>(step - first_step_ + 1);
  const double left = seconds / done * static_cast<double>(total_ - step);
  const std::string text = progress_text(step, total_, loss, learning_rate, static_cast<double>(tokens_) / seconds,
                                         left, terminal_ ? kBarWidth : 0);
  std::fputs((terminal_ ? "\r" + text + "\x1b[K" : text + "\n").c_str(), stderr);
  std::fflush(stderr);
  line_shown_ = terminal_;
}

void Progress::clear() {
  if (line_shown_) {
    std::fputs("\r\x1b[K", stderr);
    line_shown_ = false;
  }
}

}  // namespace moelora::train
