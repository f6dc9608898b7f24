#pragma once
// Whether CUDA can be used: the facts, gathered once, and what they mean for a user.

#include <string>
#include <vector>

namespace moelora::nn::cuda {

struct Card {
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
};

struct Setup {
  bool built = false;       // this program holds LibTorch's CUDA part
  bool driver = false;      // the machine has a driver
  std::string start_error;  // why the driver did not start; empty: it did
  int driver_version = 0;   // the newest CUDA that the driver serves: 12080 is 12.8
  int library_version = 0;  // the CUDA that LibTorch was built with
  /// What LibTorch has code for, as it was handed to nvcc: "…arch=compute_70,code=sm_70;…"; empty: it did not say.
  std::string architectures;
  std::vector<Card> cards;
};

/// Of this program on this machine.
const Setup& setup();

/// Empty if the card with that index can be used; otherwise why not and what to do, without the device's name in front.
std::string problem(const Setup& setup, int index);

/// Whether code for these architectures runs on a card of that compute capability: machine code of the same major
/// version and no later minor one, or intermediate code (code=compute_XY) that is no later.
bool runs_on(const std::string& architectures, int major, int minor);

}  // namespace moelora::nn::cuda
