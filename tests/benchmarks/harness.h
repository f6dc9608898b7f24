#pragma once
// What every benchmark shares: paired timing, the interval of its median, and one JSON line for each result.

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moelora::bench {

struct Options {
  int most_rounds = 30;           ///< That doubling may lead to.
  int rounds = 15;                ///< Pairs; doubled where the interval is wider than 5 % of the median.
  int threads = 2;                ///< Of the computation.
  std::filesystem::path shared;   ///< Folder with data/ and fixtures/ that do not ship; cases that need it skip.
  std::filesystem::path program;  ///< This program's own path, to measure a case's memory in a process of its own.
};

/// A number with its interval: the order statistics that bracket the median with 95 % confidence or more.
struct Interval {
  double median = 0.0;
  double low = 0.0;
  double high = 0.0;
};
Interval median_interval(std::vector<double> values);

struct Paired {
  Interval ratio;                ///< ours / yardstick, of each pair
  double ratio_of_totals = 0.0;  ///< time of all of ours / of all of the yardstick's: what a mix of sizes comes to
  double ours_seconds = 0.0;
  double yardstick_seconds = 0.0;  ///< medians
  int rounds = 0;
};

/// Runs both once to warm up, then in pairs whose order alternates. `round` counts from 0, so that both can work on the
/// same slice of data.
using Timed = std::function<void(int round)>;
using Stopwatch = double (*)(const std::function<void()>& call);

/// Wall time of a call in seconds.
double seconds_of(const std::function<void()>& call);
/// Processor time of a call in seconds, of all threads: what others on the machine take doesn't count.
double cpu_seconds_of(const std::function<void()>& call);

Paired measure_paired(const Timed& ours, const Timed& yardstick, const Options& options,
                      Stopwatch stopwatch = seconds_of);

enum class Better { smaller, larger };

struct Bar {
  int row = 0;          ///< In the table that run.sh prints.
  std::string measure;  ///< What the value is.
  std::string unit;     ///< Empty: a ratio.
  double bar = 0.0;
  std::optional<double> stretch;
  Better better = Better::smaller;
};

/// Prints one JSON line to stdout: the bar, the value, whether it holds, and `details`.
void report(const Bar& bar, const Interval& value, nlohmann::ordered_json details = nlohmann::ordered_json::object());
void report(const Bar& bar, double value, nlohmann::ordered_json details = nlohmann::ordered_json::object());
/// The usual details of a paired measurement.
nlohmann::ordered_json details_of(const Paired& paired, const std::string& ours, const std::string& yardstick);
/// Prints a line that says why a row was not measured.
void report_skipped(int row, const std::string& measure, const std::string& why);

/// Highest resident memory of this process so far, in bytes (VmHWM).
double peak_memory_bytes();
/// The same of a command that prints {"peak_memory_bytes": …} at its end, as --once does. Error if it fails.
double peak_memory_of(const std::string& command);
/// The JSON object that such a command prints.
nlohmann::json run_once(const std::string& command);

/// Processor, cores, memory and LibTorch version, one line each.
nlohmann::ordered_json hardware();

/// Reads result lines and prints them as a table: row, measure, value, interval, bar, holds.
int print_table(const std::filesystem::path& results);

}  // namespace moelora::bench
