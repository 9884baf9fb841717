// Any bytes, read as values of many shapes: an error or a value whose bytes are those that were read, never a crash.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <variant>
#include <vector>

#include "sluice/core/codec.h"
#include "sluice/runtime/errors.h"

namespace sluice_fuzz {

struct Tick {
  char symbol[4];
  float price;
};
struct Row {
  bool flag;
  std::string_view name;
  std::optional<std::string> note;
  std::variant<int, std::string_view, std::monostate> value;
  std::vector<Tick> ticks;
  std::vector<bool> bits;
};
struct Nothing {};
struct Tree {
  std::vector<Tree> children;
};

}  // namespace sluice_fuzz

template <>
struct sluice::codec<sluice_fuzz::Tree> {
  static void encode(const sluice_fuzz::Tree& tree, Encoder& out) {
    out.varint(tree.children.size());
    for (const sluice_fuzz::Tree& child : tree.children) sluice::encode(child, out);
  }
  static sluice_fuzz::Tree decode(Decoder& in) {
    sluice_fuzz::Tree tree;
    for (std::size_t n = in.count(); n != 0; --n) tree.children.push_back(sluice::decode<sluice_fuzz::Tree>(in));
    return tree;
  }
};

namespace {

template <class T>
void read(std::string_view bytes, sluice::Arena* arena) {
  try {
    sluice::Decoder in(bytes, arena);
    T value = sluice::decode<T>(in);
    sluice::Arena other;
    sluice::rest(value, other);
    sluice::Encoder out;
    sluice::encode(value, out);
    if (out.view() != std::string_view(bytes.data(), in.position())) std::abort();
  } catch (const sluice::Error& error) {
    if (error.code() != sluice::Code::corrupt_data && error.code() != sluice::Code::truncated_data) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  sluice::Arena arena;
  for (sluice::Arena* where : {static_cast<sluice::Arena*>(nullptr), &arena}) {
    read<sluice_fuzz::Row>(bytes, where);
    read<std::vector<sluice_fuzz::Row>>(bytes, where);
    read<std::vector<std::vector<sluice_fuzz::Nothing>>>(bytes, where);
    read<std::tuple<std::array<std::string_view, 3>, std::optional<std::vector<std::string>>>>(bytes, where);
    read<sluice_fuzz::Tree>(bytes, where);
  }
  return 0;
}
