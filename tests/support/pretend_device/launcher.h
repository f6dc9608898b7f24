#pragma once

namespace moelora::testing::pretend {

/// The library's kernels run on the pretend device from here on; install() does it.
void install_launcher();

}  // namespace moelora::testing::pretend
