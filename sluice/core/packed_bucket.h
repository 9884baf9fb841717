// Buckets of shuffles as bytes: as they travel to another process, and as they lie on disk.
//
//     const std::string bytes = pack_bucket(*kernel, *bucket, Compression::lz4);
//     const BucketPtr same = unpack_bucket(*kernel, bytes);
//
// The first byte says how the rest is to be read. 0: it is what the kernel encodes. 1: it is that as an LZ4 block,
// behind its size (8 bytes, little endian). Such bytes live no longer than the processes of one build, so they have no
// version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "sluice/core/task.h"

namespace sluice::detail {

enum class Compression : std::uint8_t { none, lz4 };
/// Of the setting `shuffle-compression`. Errors: SLU-114.
Compression compression_of(const std::string& name);

/// Smaller buckets are not compressed: a message costs more than its bytes.
inline constexpr std::size_t compressed_bytes_min = 4 << 10;

/// Never empty. With lz4, what does not become smaller stays as it is. Cost: one encoding; lz4 takes a second buffer of
/// the same size for as long as it works.
std::string pack_bucket(const ShuffleKernel& kernel, const Bucket& bucket, Compression compression);

/// Reads both kinds, whatever this process packs. Errors: SLU-301, SLU-302 bytes that are none of them; SLU-305 a size
/// that no LZ4 block of so many bytes has. Nothing is allocated before the size was held against the bytes.
BucketPtr unpack_bucket(const ShuffleKernel& kernel, std::string_view bytes);

}  // namespace sluice::detail
