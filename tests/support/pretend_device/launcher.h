#pragma once

namespace moelora::testing::pretend {

/// The library's kernels run on the pretend device from here on; install() does it.
void install_launcher();

/// While one of these lives the device has no kernels of ours, as a type of device that has no launcher.
class WithoutKernels {
 public:
  WithoutKernels();
  ~WithoutKernels() { install_launcher(); }
  WithoutKernels(const WithoutKernels&) = delete;
  WithoutKernels& operator=(const WithoutKernels&) = delete;
};

}  // namespace moelora::testing::pretend
