#pragma once
// The cases of moelora_bench: each prints the rows that it measures.

#include "harness.h"

namespace moelora::bench {

void training_step(const Options& options);           ///< rows 1, 2, 3
void training_memory(const Options& options);         ///< row 4
void number_of_experts(const Options& options);       ///< row 7
void length_mix(const Options& options);              ///< rows 5, 6
void decoding(const Options& options);                ///< rows 8, 9
void merging(const Options& options);                 ///< row 10
void scaling(const Options& options);                 ///< row 12
void planning(const Options& options);                ///< row 13
void alone(const Options& options);                   ///< row 14
void small_decoder_step(const Options& options);      ///< row 15
void small_decoder_memory(const Options& options);    ///< row 15
void small_decoder_decoding(const Options& options);  ///< row 16
void tokenizing(const Options& options);              ///< row 20

/// Work whose memory is measured in a process of its own, `moelora_bench --once NAME`; several times, because a first
/// step makes the optimizer's state and the allocator's pools.
/// Returns what there is to say besides the memory.
nlohmann::ordered_json once(const std::string& name, int times);
nlohmann::ordered_json planned_step(const std::string& name, int times);  ///< null: no such name
bool small_decoder_once(const std::string& name, int times);              ///< false: no such name

}  // namespace moelora::bench
