#pragma once
// Text cut as BERT's BasicTokenizer does (transformers, do_lower_case on), which the benchmark's Rouge rests on.

#include <string>
#include <string_view>
#include <vector>

namespace moelora::eval {

/// Each Chinese character and each punctuation mark is a token, what stands between white space another; lower case,
/// without accents. Control characters and invalid bytes are left out.
std::vector<std::string> basic_tokens(std::string_view text);

}  // namespace moelora::eval
