#pragma once
// What is counted, from any thread. Parts of a launch don't count.

#include <string>

namespace moelora::testing::pretend {

bool inside_launch();
void count_operator(const std::string& name);
void count_wait(const std::string& why);
void count_upload(std::size_t bytes, bool blocking);

}  // namespace moelora::testing::pretend
