#include "sluice/core/evolve.h"

namespace sluice::detail {
namespace {

// A schema is read from disk: it may be anything.
constexpr int schema_depth_max = 64;

class Parser {
 public:
  explicit Parser(std::string_view text) : left_(text) {}

  std::optional<SchemaTree> all() {
    auto tree = next(0);
    if (!left_.empty()) return std::nullopt;
    return tree;
  }

 private:
  std::optional<SchemaTree> next(int depth) {
    if (depth > schema_depth_max) return std::nullopt;
    const std::size_t end = std::min(left_.find_first_of("<>{},"), left_.size());
    SchemaTree tree{std::string(left_.substr(0, end)), {}};
    if (tree.name.empty()) return std::nullopt;
    left_.remove_prefix(end);
    if (left_.empty() || (left_[0] != '<' && left_[0] != '{')) return tree;
    const char close = left_[0] == '<' ? '>' : '}';
    left_.remove_prefix(1);
    while (!left_.starts_with(close)) {
      auto part = next(depth + 1);
      if (!part.has_value()) return std::nullopt;
      tree.parts.push_back(std::move(*part));
      if (left_.starts_with(',')) {
        left_.remove_prefix(1);
      } else if (!left_.starts_with(close)) {
        return std::nullopt;
      }
    }
    left_.remove_prefix(1);
    return tree;
  }

  std::string_view left_;
};

}  // namespace

bool operator==(const SchemaTree& a, const SchemaTree& b) { return a.name == b.name && a.parts == b.parts; }

std::optional<SchemaTree> parse_schema(std::string_view schema) { return Parser(schema).all(); }

}  // namespace sluice::detail
