#pragma once
// The compression function of SHA-256 over whole 64-byte blocks: portable, and by the processor's own instructions.

#include <array>
#include <cstddef>
#include <cstdint>

namespace moelora::io {

using Sha256State = std::array<std::uint32_t, 8>;

void sha256_blocks_portable(Sha256State& state, const std::uint8_t* bytes, std::size_t blocks);

bool sha256_hardware_present();
/// Only where sha256_hardware_present().
void sha256_blocks_hardware(Sha256State& state, const std::uint8_t* bytes, std::size_t blocks);

}  // namespace moelora::io
