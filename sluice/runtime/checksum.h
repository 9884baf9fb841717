// CRC32C (Castagnoli), the checksum of every block, frame and file of sluice.
#pragma once

#include <cstdint>
#include <string_view>

namespace sluice {

/// CRC32C of `bytes`, continuing from `seed` (0 to begin). Uses the CPU's instruction where there is one.
std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed = 0);

namespace detail {
/// The same without the instruction, for other CPUs.
std::uint32_t crc32c_by_table(std::string_view bytes, std::uint32_t seed = 0);
}  // namespace detail

}  // namespace sluice
