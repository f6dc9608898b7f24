#pragma once
// Names of tensors as people save them, and how to show names that were expected beside those that were found.

#include <string>
#include <string_view>
#include <vector>

namespace moelora::io {

/// `name` without what wrappers leave in the names of a state dict: the components `_orig_mod` (torch.compile),
/// `_fsdp_wrapped_module` (FSDP), `_checkpoint_wrapped_module` (activation checkpointing) and `_forward_module`
/// (Lightning) wherever they stand, and in front `module` (DataParallel, DistributedDataParallel, DeepSpeed) and
/// `base_model.model` (PEFT), however often and in whatever order; `model` too if one of these follows it.
std::string without_wrappers(std::string_view name);

/// "\n  what: entry" for the first `limit` entries, and a line that says how many more there are.
std::string lines_of(std::string_view what, const std::vector<std::string>& entries, std::size_t limit = 5);

/// "a, b, … (7 in all)".
std::string in_a_row(const std::vector<std::string>& entries, std::size_t limit = 5);

/// "\n  expected A, found B" for the first `limit` expected names: B is the nearest of the names found. Empty if
/// either list is.
std::string expected_beside_found(const std::vector<std::string>& expected, const std::vector<std::string>& found,
                                  std::size_t limit = 5);
/// "\n  found B, expected A": the same from the side of the names found.
std::string found_beside_expected(const std::vector<std::string>& found, const std::vector<std::string>& expected,
                                  std::size_t limit = 5);

}  // namespace moelora::io
