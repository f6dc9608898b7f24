#include "nn/kernels/cuda/setup.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/version.h>

#include <algorithm>
#include <regex>

#include "moelora/io/error.h"
#include "moelora/io/readable.h"
#include "nn/kernels/cuda/driver.h"

namespace moelora::nn::cuda {
namespace {

#ifdef MOELORA_CUDA
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

struct Code {
  bool machine = false;  // sm_XY, as opposed to compute_XY
  int major = 0;
  int minor = 0;
  bool exact = false;  // sm_90a: for that card alone
};

std::vector<Code> codes_of(const std::string& architectures) {
  static const std::regex pattern("code=(sm|compute)_([0-9]+)([0-9])([af]?)");
  std::vector<Code> codes;
  for (std::sregex_iterator found(architectures.begin(), architectures.end(), pattern), end; found != end; ++found) {
    const std::smatch& match = *found;
    codes.push_back({match[1] == "sm", std::stoi(match[2]), std::stoi(match[3]), match[4].length() > 0});
  }
  return codes;
}

std::string names_of(const std::string& architectures) {
  std::vector<std::string> names;
  for (const Code& code : codes_of(architectures)) {
    names.push_back(detail::concat(code.machine ? "sm_" : "compute_", code.major, code.minor));
  }
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names.empty() ? "no GPU" : io::joined(names);
}

std::string version_text(int version) { return detail::concat(version / 1000, ".", version % 1000 / 10); }

void add_cards(const Driver& driver, Setup& found) {
  int count = 0;
  if (const Result error = driver.init(0); error != 0) {
    found.start_error = error_text(driver, error);
  } else if (const Result counting = driver.count_devices(&count); counting != 0) {
    found.start_error = error_text(driver, counting);
  }
  driver.version(&found.driver_version);
  for (int index = 0; index < count; ++index) {
    Card card;
    DeviceNumber device = 0;
    char name[256] = "GPU";
    if (driver.device(&device, index) == 0) {
      driver.device_name(name, sizeof name, device);
      driver.device_attribute(&card.major, kComputeCapabilityMajor, device);
      driver.device_attribute(&card.minor, kComputeCapabilityMinor, device);
      driver.device_attribute(&card.multiprocessors, kMultiprocessorCount, device);
    }
    card.name = name;
    found.cards.push_back(card);
  }
}

// LibTorch asks CUDA's runtime on the way, which wants a driver that works.
std::string architectures_of_libtorch() {
  try {
    return at::detail::getCUDAHooks().showConfig();
  } catch (const c10::Error&) {
    return "";
  }
}

Setup look() {
  Setup found;
  found.built = kBuiltWithCuda;
  if (kBuiltWithCuda) {
    found.library_version = static_cast<int>(at::detail::getCUDAHooks().versionCUDART());
    if (const Driver* opened = driver()) {
      found.driver = true;
      add_cards(*opened, found);
    }
    if (!found.cards.empty() && found.driver_version / 1000 >= found.library_version / 1000) {
      found.architectures = architectures_of_libtorch();
    }
  }
  return found;
}

std::string missing_code(const Setup& setup, const Card& card) {
  const bool before_turing = card.major == 7 && card.minor < 5;
  return detail::concat(card.name, " has compute capability ", card.major, ".", card.minor, ", and LibTorch ",
                        TORCH_VERSION, " (CUDA ", version_text(setup.library_version),
                        "), which this program is built with, holds code for ", names_of(setup.architectures),
                        " only; ",
                        before_turing ? "build with the preset v100, whose LibTorch has sm_70"
                                      : "build with a LibTorch that has code for it (-DMOELORA_LIBTORCH_VERSION)",
                        " (README, Cards)");
}

}  // namespace

const Setup& setup() {
  static const Setup found = look();
  return found;
}

bool runs_on(const std::string& architectures, int major, int minor) {
  const std::vector<Code> codes = codes_of(architectures);
  return std::any_of(codes.begin(), codes.end(), [&](const Code& code) {
    if (code.exact) {
      return code.machine && code.major == major && code.minor == minor;
    }
    return code.machine ? code.major == major && code.minor <= minor
                        : code.major < major || (code.major == major && code.minor <= minor);
  });
}

std::string problem(const Setup& setup, int index) {
  if (!setup.built) {
    return "this program is built without CUDA; build it with the preset cuda or v100 (README, Building)";
  }
  if (!setup.driver) {
    return "this machine has no NVIDIA driver (libcuda.so.1 can't be loaded); install the driver of the GPU, or "
           "compute "
           "on the CPU";
  }
  const int cards = static_cast<int>(setup.cards.size());
  if (!setup.start_error.empty()) {
    return "NVIDIA's driver does not start (" + setup.start_error + "); see what nvidia-smi says";
  }
  if (cards == 0) {
    return "NVIDIA's driver shows no GPU to this process; see what nvidia-smi and CUDA_VISIBLE_DEVICES say";
  }
  if (setup.driver_version / 1000 < setup.library_version / 1000) {
    return detail::concat("NVIDIA's driver serves CUDA ", version_text(setup.driver_version),
                          " and earlier, but LibTorch ", TORCH_VERSION, " needs CUDA ", setup.library_version / 1000,
                          "; install a newer driver, or build with a LibTorch of an earlier CUDA (README, Cards)");
  }
  if (index >= cards) {
    return detail::concat("expected a GPU from 0 to ", cards - 1, ", as NVIDIA's driver shows ", cards,
                          " to this process");
  }
  const Card& card = setup.cards[static_cast<std::size_t>(index)];
  const bool runs = setup.architectures.empty() || runs_on(setup.architectures, card.major, card.minor);
  return runs ? "" : missing_code(setup, card);
}

}  // namespace moelora::nn::cuda
