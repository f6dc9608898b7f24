#include "harness.h"

#include <ATen/Parallel.h>
#include <time.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <numeric>
#include <thread>

#include "moelora/io/error.h"

namespace moelora::bench {
namespace {

// The first of `name : value` in a file such as /proc/cpuinfo.
std::string field_of(const char* file, const std::string& name) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with(name)) {
      const auto colon = line.find(':');
      const auto begin = line.find_first_not_of(" \t", colon + 1);
      return begin == line.npos ? std::string() : line.substr(begin);
    }
  }
  return {};
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, std::abs(value) >= 1000 ? "%.0f" : std::abs(value) < 1e-3 ? "%.2g" : "%.3f", value);
  return text;
}

bool holds(double value, double bar, Better better) { return better == Better::smaller ? value <= bar : value >= bar; }

}  // namespace

Interval median_interval(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto n = static_cast<int>(values.size());
  const double median = n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
  // P(x_(k+1) <= median <= x_(n-k)) = 1 - 2 P(Binomial(n, 1/2) <= k): the largest k that keeps 95 %.
  int k = -1;
  double tail = 0.0;
  double probability = std::pow(0.5, n);
  for (int i = 0; i < n / 2; ++i) {
    tail += probability;
    if (2.0 * tail > 0.05) {
      break;
    }
    k = i;
    probability *= static_cast<double>(n - i) / (i + 1);
  }
  const int outer = std::max(k, 0);
  return {median, values[outer], values[n - 1 - outer]};
}

double seconds_of(const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double cpu_seconds_of(const std::function<void()>& call) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const double begin = now();
  call();
  return now() - begin;
}

Paired measure_paired(const Timed& ours, const Timed& yardstick, const Options& options, Stopwatch stopwatch) {
  ours(0);
  yardstick(0);
  std::vector<double> ratios, ours_times, yardstick_times;
  Paired result;
  int wanted = options.rounds;
  for (int round = 0; round < wanted; ++round) {
    double a = 0.0;
    double b = 0.0;
    if (round % 2 == 0) {
      a = stopwatch([&] { ours(round); });
      b = stopwatch([&] { yardstick(round); });
    } else {
      b = stopwatch([&] { yardstick(round); });
      a = stopwatch([&] { ours(round); });
    }
    ratios.push_back(a / b);
    ours_times.push_back(a);
    yardstick_times.push_back(b);
    std::cerr << '\r' << "round " << round + 1 << "/" << wanted << ": " << number(a) << " s / " << number(b)
              << " s = " << number(a / b) << "      " << std::flush;
    if (round + 1 == options.rounds) {
      const Interval so_far = median_interval(ratios);
      wanted = so_far.high - so_far.low > 0.05 * so_far.median
                   ? std::max(wanted, std::min(2 * options.rounds, options.most_rounds))
                   : wanted;
    }
  }
  std::cerr << '\n';
  result.ratio = median_interval(ratios);
  result.ours_seconds = median_interval(ours_times).median;
  result.yardstick_seconds = median_interval(yardstick_times).median;
  result.rounds = wanted;
  result.ratio_of_totals = std::accumulate(ours_times.begin(), ours_times.end(), 0.0) /
                           std::accumulate(yardstick_times.begin(), yardstick_times.end(), 0.0);
  return result;
}

void report(const Bar& bar, const Interval& value, nlohmann::ordered_json details) {
  nlohmann::ordered_json line{{"row", bar.row}, {"measure", bar.measure}, {"value", value.median}};
  if (value.low != value.high) {
    line["low"] = value.low;
    line["high"] = value.high;
  }
  if (!bar.unit.empty()) {
    line["unit"] = bar.unit;
  }
  line["better"] = bar.better == Better::smaller ? "smaller" : "larger";
  line["bar"] = bar.bar;
  line["holds"] = holds(value.median, bar.bar, bar.better);
  if (bar.stretch) {
    line["stretch"] = *bar.stretch;
    line["stretch_holds"] = holds(value.median, *bar.stretch, bar.better);
  }
  line.update(details);
  std::cout << line.dump() << std::endl;
}

void report(const Bar& bar, double value, nlohmann::ordered_json details) {
  report(bar, Interval{value, value, value}, std::move(details));
}

nlohmann::ordered_json details_of(const Paired& paired, const std::string& ours, const std::string& yardstick) {
  return {{"ours", ours},
          {"ours_seconds", paired.ours_seconds},
          {"yardstick", yardstick},
          {"yardstick_seconds", paired.yardstick_seconds},
          {"rounds", paired.rounds},
          {"ratio_of_totals", paired.ratio_of_totals},
          {"threads", at::get_num_threads()}};
}

void report_skipped(int row, const std::string& measure, const std::string& why) {
  std::cout << nlohmann::ordered_json{{"row", row}, {"measure", measure}, {"skipped", why}}.dump() << std::endl;
}

double peak_memory_bytes() { return std::stod(field_of("/proc/self/status", "VmHWM")) * 1024.0; }

double peak_memory_of(const std::string& command) { return run_once(command).at("peak_memory_bytes").get<double>(); }

nlohmann::json run_once(const std::string& command) {
  // Asked of the process itself: the resource usage that a parent sees begins with the parent's own size.
  FILE* pipe = popen(command.c_str(), "r");
  MOELORA_CHECK(pipe != nullptr, "could not start ", command);
  std::string text;
  char buffer[256];
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) {
    text += buffer;
  }
  const int status = pclose(pipe);
  MOELORA_CHECK(status == 0, command, " ended with status ", status);
  return nlohmann::json::parse(text);
}

nlohmann::ordered_json hardware() {
  return {{"hardware", field_of("/proc/cpuinfo", "model name")},
          {"cores", std::thread::hardware_concurrency()},
          {"memory_gb", std::stod(field_of("/proc/meminfo", "MemTotal")) * 1024.0 / 1e9},
          {"threads", at::get_num_threads()},
          {"libtorch", TORCH_VERSION}};
}

int print_table(const std::filesystem::path& results) {
  std::ifstream stream(results);
  MOELORA_CHECK(stream.good(), "no results at ", results.string(), "; write them with moelora_bench CASE… > FILE");
  std::vector<nlohmann::json> lines;
  for (std::string text; std::getline(stream, text);) {
    if (!text.empty()) {
      lines.push_back(nlohmann::json::parse(text));
    }
  }
  std::stable_sort(lines.begin(), lines.end(),
                   [](const auto& a, const auto& b) { return a.value("row", 0) < b.value("row", 0); });
  int missed = 0;
  std::printf("| row | measure | yardstick | ours | value | 95 %% interval | bar | stretch | holds |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|\n");
  for (const auto& line : lines) {
    if (!line.contains("row")) {
      continue;
    }
    if (line.contains("skipped")) {
      std::printf("| %d | %s | | | skipped: %s | | | | |\n", line["row"].get<int>(),
                  line["measure"].get<std::string>().c_str(), line["skipped"].get<std::string>().c_str());
      continue;
    }
    const auto cell = [&](const char* key) { return line.contains(key) ? number(line[key].get<double>()) : ""; };
    const auto seconds = [&](const char* name) {
      const std::string key = std::string(name) + "_seconds";
      return line.contains(key) ? line.value(name, "") + ": " + number(line[key].get<double>()) + " s" : std::string();
    };
    const std::string bound = line["better"] == "smaller" ? "≤ " : "≥ ";
    const std::string unit = line.contains("unit") ? " " + line["unit"].get<std::string>() : "";
    const bool held = line["holds"].get<bool>();
    missed += held ? 0 : 1;
    std::printf("| %d | %s | %s | %s | %s%s | %s | %s%s | %s | %s |\n", line["row"].get<int>(),
                line["measure"].get<std::string>().c_str(), seconds("yardstick").c_str(), seconds("ours").c_str(),
                cell("value").c_str(), unit.c_str(),
                line.contains("low") ? (cell("low") + " – " + cell("high")).c_str() : "", bound.c_str(),
                cell("bar").c_str(), cell("stretch").c_str(),
                !held                                ? "**no**"
                : line.value("stretch_holds", false) ? "yes, stretch too"
                                                     : "yes");
  }
  for (const auto& line : lines) {
    if (line.contains("hardware")) {
      std::printf("\n%s, %d cores, %.1f GB, %d threads, LibTorch %s\n", line["hardware"].get<std::string>().c_str(),
                  line["cores"].get<int>(), line["memory_gb"].get<double>(), line["threads"].get<int>(),
                  line["libtorch"].get<std::string>().c_str());
    }
  }
  std::printf("%d bars missed\n", missed);
  return 0;
}

}  // namespace moelora::bench
