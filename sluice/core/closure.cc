#include "sluice/core/closure.h"

#include "sluice/core/hash.h"
#include "sluice/runtime/process.h"

namespace sluice::detail {

void encode_address(const std::type_info& what, const void* address, Encoder& out) {
  const Image* image = image_of(address);
  SLUICE_ASSERT(image != nullptr);
  // The hash of a type's name: the same in every process of the binary.
  out.u64(image->build_id ^ what.hash_code());
  out.u64(reinterpret_cast<std::uintptr_t>(address) - image->base);
}

const void* decode_address(const std::type_info& what, Decoder& in) {
  const std::uint64_t build_id = in.u64() ^ what.hash_code();
  const std::uint64_t offset = in.u64();
  const Image* image = image_with_build_id(build_id);
  if (image == nullptr) throw Error(Code::other_build, {.why = "no loaded image has the build id of the task"});
  if (offset >= image->end - image->base) {
    throw Error(Code::corrupt_data, {.why = "a function's address lies outside its image"});
  }
  return reinterpret_cast<const void*>(image->base + offset);
}

void check_captures(const void* bytes, std::size_t size, const OperatorInfo& info) {
  if (info.where.line() == 0) return;  // decoded again: was checked where it was declared
  const char* p = static_cast<const char*>(bytes);
  for (std::size_t offset = 0; offset + 8 <= size; offset += 8) {
    const std::uint64_t word = load64(p + offset);
    // User-space addresses; small integers and most doubles are not, and need no look-up.
    if (word < (1ULL << 16) || word >= (1ULL << 47)) continue;
    const MemoryKind kind = memory_kind(word);
    if (kind == MemoryKind::unmapped || kind == MemoryKind::other) continue;
    const char* place = kind == MemoryKind::heap ? "the heap" : kind == MemoryKind::stack ? "the stack" : "the program";
    throw Error(Code::captures_pointer, {.why = "bytes " + std::to_string(offset) + ".." + std::to_string(offset + 7) +
                                                " of the captures point into " + place + " of this process",
                                         .operation = info.name,
                                         .where = info.where});
  }
}

}  // namespace sluice::detail
