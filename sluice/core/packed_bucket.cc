#include "sluice/core/packed_bucket.h"

#include <lz4.h>

#include <cstring>

namespace sluice::detail {
namespace {

constexpr std::uint8_t as_it_is = 0;
constexpr std::uint8_t as_lz4 = 1;
constexpr std::size_t lz4_header_bytes = 1 + 8;
/// A byte of an LZ4 block stands for 255 at most (a match is as long as the 255s that follow it say).
constexpr std::uint64_t lz4_ratio_max = 255;

std::string decompressed(Decoder& in) {
  const std::uint64_t size = in.u64();
  const std::string_view block = in.bytes(in.remaining());
  if (size > LZ4_MAX_INPUT_SIZE || block.size() > LZ4_MAX_INPUT_SIZE || size > lz4_ratio_max * block.size()) {
    throw Error(Code::over_limit, {.why = "a compressed bucket of " + std::to_string(block.size()) +
                                          " bytes says that it was one of " + std::to_string(size)});
  }
  std::string bytes(size, '\0');
  const int got =
      LZ4_decompress_safe(block.data(), bytes.data(), static_cast<int>(block.size()), static_cast<int>(size));
  if (got < 0 || static_cast<std::uint64_t>(got) != size) {
    throw Error(Code::corrupt_data, {.why = "a compressed bucket is no LZ4 block of its size"});
  }
  return bytes;
}

}  // namespace

Compression compression_of(const std::string& name) {
  if (name == "none") return Compression::none;
  if (name == "lz4") return Compression::lz4;
  throw Error(Code::bad_setting, {.why = "--sluice.shuffle-compression: \"" + name + "\" is none of none, lz4"});
}

std::string pack_bucket(const ShuffleKernel& kernel, const Bucket& bucket, Compression compression) {
  Encoder out;
  out.u8(as_it_is);
  kernel.encode_bucket(bucket, out);
  const std::size_t size = out.size() - 1;
  if (compression == Compression::none || size < compressed_bytes_min || size > LZ4_MAX_INPUT_SIZE) return out.take();
  const int bound = LZ4_compressBound(static_cast<int>(size));
  std::string packed(lz4_header_bytes + static_cast<std::size_t>(bound), '\0');
  packed[0] = static_cast<char>(as_lz4);
  const std::uint64_t written_size = size;
  std::memcpy(packed.data() + 1, &written_size, sizeof written_size);
  const int got =
      LZ4_compress_default(out.view().data() + 1, packed.data() + lz4_header_bytes, static_cast<int>(size), bound);
  if (got <= 0 || lz4_header_bytes + static_cast<std::size_t>(got) >= out.size()) return out.take();
  packed.resize(lz4_header_bytes + static_cast<std::size_t>(got));
  return packed;
}

BucketPtr unpack_bucket(const ShuffleKernel& kernel, std::string_view bytes) {
  Decoder packed(bytes);
  const std::uint8_t how = packed.u8();
  if (how > as_lz4) packed.fail_corrupt("a bucket that is packed in an unknown way");
  const std::string unpacked = how == as_lz4 ? decompressed(packed) : std::string();
  Decoder in(how == as_lz4 ? std::string_view(unpacked) : bytes.substr(1));
  BucketPtr bucket = kernel.decode_bucket(in);
  in.expect_end();
  return bucket;
}

}  // namespace sluice::detail
