// moelora_gpu_bench: the benchmarks that need a GPU, one JSON line for each row (tests/gpu/run.sh). --device cpu
// --shape tiny tries the program itself.

#include <CLI/CLI.hpp>
#include <iostream>

#include "gpu/bench/rows.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/nn/device.h"

namespace {

using moelora::bench::DeviceOptions;

const std::map<std::string, void (*)(const DeviceOptions&)> kCases{{"step", moelora::bench::step_on_device},
                                                                   {"memory", moelora::bench::memory_on_device},
                                                                   {"decode", moelora::bench::decode_on_device},
                                                                   {"merge", moelora::bench::merge_on_device},
                                                                   {"lengths", moelora::bench::lengths}};

nlohmann::ordered_json hardware_of(const DeviceOptions& options) {
  const moelora::nn::DeviceInfo card = moelora::nn::device_info(options.device);
  nlohmann::ordered_json line = moelora::bench::hardware();
  line["card"] = card.name;
  line["capability"] = std::to_string(card.major) + "." + std::to_string(card.minor);
  line["card_memory_gib"] = static_cast<double>(card.total_bytes) / static_cast<double>(1 << 30);
  line["dtype"] = moelora::io::dtype_name(options.dtype);
  return line;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Benchmarks of moelora on a GPU: one JSON line for each row."};
  DeviceOptions options;
  std::vector<std::string> names;
  std::string device = "cuda:0";
  std::string dtype = "float16";
  app.add_option("cases", names, "step, memory, decode, merge, lengths")->required();
  app.add_option("--device", device, "cuda:N or cpu")->capture_default_str();
  app.add_option("--dtype", dtype, "float16, bfloat16 or float32")->capture_default_str();
  app.add_option("--shape", options.shape, "6b, small or tiny")->capture_default_str();
  app.add_option("--rounds", options.rounds, "measurements of each")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--samples", options.samples, "of one step")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--micro-batch-tokens", options.micro_batch_tokens, "rows computed at once")->capture_default_str();
  app.add_option("--peak-tflops", options.peak_tflops, "of the card's 16-bit products; 0: by its name");
  CLI11_PARSE(app, argc, argv);
  try {
    options.device = at::Device(device);
    const auto known = moelora::io::dtype_of_name(dtype);
    MOELORA_CHECK(known, "--dtype: expected float16, bfloat16 or float32, found '", dtype, "'");
    options.dtype = *known;
    std::cout << hardware_of(options).dump() << std::endl;
    for (const std::string& name : names) {
      const auto found = kCases.find(name);
      MOELORA_CHECK(found != kCases.end(), "no case '", name, "'");
      std::cerr << "== " << name << std::endl;
      found->second(options);
    }
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
  }
  return 0;
}
