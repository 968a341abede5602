// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";
import {Trees, vm} from "./Vm.sol";

/// @dev What the snapshot watches: one call each, on a session in its steady state.
contract GasTest {
    HyperGPULedger private _ledger;
    bytes32 private _id;
    bytes32 private _sibling;

    function setUp() public {
        vm.warp(1_700_000_000);
        _ledger = new HyperGPULedger();
        vm.deal(address(this), 10 ether);
        _id = _ledger.open{value: 1 ether}(0);
        _sibling = keccak256("sibling");
        bytes32 rewards = Trees.parent(Trees.rewardLeaf(_id, address(0xA1), 1 gwei), _sibling);
        _ledger.commitRound(_id, 1, keccak256("root"), keccak256("model"), rewards, 2 gwei);
        vm.warp(block.timestamp + 60);
    }

    function test_gas_commit() public {
        _ledger.commitRound(_id, 2, keccak256("root 2"), keccak256("model 2"), keccak256("rewards 2"), 3 gwei);
    }

    function test_gas_claim() public {
        _ledger.claim(_id, address(0xA1), 1 gwei, Trees.proof(_sibling));
    }

    function test_gas_fund() public {
        _ledger.fund{value: 1 gwei}(_id);
    }

    function test_gas_fund_to() public {
        _ledger.fundTo{value: 1 gwei}(_id, 1 ether + 1 gwei);
    }

    function test_gas_open() public {
        _ledger.open{value: 1 gwei}(bytes32(uint256(1)));
    }
}
