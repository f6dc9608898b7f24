#include "support/pretend_device/counting.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "support/pretend_device/callers.h"
#include "support/pretend_device/memory.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::testing::pretend {
namespace {

thread_local int launches = 0;

std::mutex counting_mutex;
Counters& counted() {
  static auto* all = new Counters;
  return *all;
}

std::string lines(const char* what, const std::map<std::string, std::int64_t>& counts, std::size_t longest) {
  std::vector<std::pair<std::int64_t, std::string>> sorted;
  for (const auto& [name, count] : counts) {
    sorted.emplace_back(count, name);
  }
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string text;
  for (std::size_t i = 0; i < std::min(longest, sorted.size()); ++i) {
    text += std::string("  ") + what + " " + std::to_string(sorted[i].first) + " " + sorted[i].second + "\n";
  }
  return text;
}

}  // namespace

bool inside_launch() { return launches > 0; }

void count_operator(const std::string& name) {
  const std::lock_guard lock(counting_mutex);
  ++counted().operators;
  ++counted().by_operator[name];
}

void count_wait(const std::string& why) {
  const std::string who = callers();
  const std::lock_guard lock(counting_mutex);
  ++counted().waits;
  ++counted().waits_by_caller[why + ": " + who];
}

void count_upload(std::size_t bytes, bool blocking) {
  const std::string who = callers();
  const std::lock_guard lock(counting_mutex);
  Counters& count = counted();
  ++count.uploads;
  count.uploaded_bytes += static_cast<std::int64_t>(bytes);
  ++count.uploads_by_caller[who];
  if (blocking) {
    ++count.waits;
    ++count.blocking_uploads;
    ++count.waits_by_caller["blocking upload: " + who];
  }
}

Launch::Launch(const std::string& name) {
  if (launches++ == 0) {
    count_operator(name);
  }
}
Launch::~Launch() { --launches; }

Counters counters() {
  const std::lock_guard lock(counting_mutex);
  Counters now = counted();
  now.peak_bytes = peak_bytes();
  return now;
}

void reset() {
  const std::lock_guard lock(counting_mutex);
  counted() = {};
  reset_peak();
}

std::string Counters::to_text(std::size_t longest) const {
  return std::to_string(operators) + " operators, " + std::to_string(waits) + " waits (" +
         std::to_string(blocking_uploads) + " of them blocking uploads), " + std::to_string(uploads) + " uploads of " +
         std::to_string(uploaded_bytes) + " bytes, peak " + std::to_string(peak_bytes) + " bytes\n" +
         lines("operator", by_operator, longest) + lines("wait", waits_by_caller, longest) +
         lines("upload", uploads_by_caller, longest);
}

}  // namespace moelora::testing::pretend
